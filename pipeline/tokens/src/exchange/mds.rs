//! MosaicML Streaming's shards: `shard.NNNNN.mds` and `index.json`, one sample per chunk with the column `tokens`.
//!
//! A shard: samples (u32), where each begins and the last ends (u32), the settings as JSON, the samples. A column of fixed size has no
//! length before it.

use super::{CHUNK_FILE_BYTES, Folder, chunk_files};
use crate::error::Error;
use crate::shards::ShardSet;
use osler_schemas::shard::Dtype;
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3;

const HASH: &str = "xxh3_128";

pub(super) fn export(set: &ShardSet, folder: &mut Folder) -> Result<(), Error> {
    let settings = settings(set);
    // Keys in order and a space behind each comma and colon, as its own writer has them; readers skip it.
    let text = spaced(&settings);
    let mut shards = Vec::new();
    for (number, chunks) in chunk_files(set) {
        let name = format!("shard.{number:05}.mds");
        let count = (chunks.end - chunks.start) as u32;
        let mut sample = vec![0; set.chunk(chunks.start).map_or(0, |chunk| chunk.num_bytes())];
        let first = 4 + 4 * (u64::from(count) + 1) + text.len() as u64;
        let mut head = count.to_le_bytes().to_vec();
        for index in 0..=u64::from(count) {
            head.extend_from_slice(&offset(&name, first + index * sample.len() as u64)?.to_le_bytes());
        }
        head.extend_from_slice(text.as_bytes());
        let mut hasher = Xxh3::new();
        let mut output = folder.create(&name)?;
        hasher.update(&head);
        output.write(&head)?;
        for chunk in chunks.filter_map(|index| set.chunk(index)) {
            chunk.copy_bytes_into(&mut sample);
            hasher.update(&sample);
            output.write(&sample)?;
        }
        let (bytes, hash) = (output.num_bytes, format!("{:032x}", hasher.digest128()));
        folder.close(output)?;
        let mut entry = settings.clone();
        entry["raw_data"] = json!({"basename": name, "bytes": bytes, "hashes": {HASH: hash}});
        entry["samples"] = json!(count);
        entry["zip_data"] = Value::Null;
        shards.push(entry);
    }
    folder.write("index.json", spaced(&json!({"shards": shards, "version": 2})).as_bytes())
}

pub(super) fn offset(name: &str, position: u64) -> Result<u32, Error> {
    u32::try_from(position).map_err(|_| Error::Data(format!("{name}: one chunk is larger than the 4 GiB that its offsets can reach")))
}

fn settings(set: &ShardSet) -> Value {
    let header = set.header();
    let dtype = match header.dtype {
        Dtype::U16 => "uint16",
        Dtype::U32 => "uint32",
    };
    let size = u64::from(header.context_length) * header.dtype.num_bytes();
    json!({
        "column_encodings": [format!("ndarray:{dtype}:{}", header.context_length)], "column_names": ["tokens"], "column_sizes": [size],
        "compression": null, "format": "mds", "hashes": [HASH], "size_limit": CHUNK_FILE_BYTES, "version": 2,
    })
}

/// JSON with a space behind each comma and colon outside strings.
fn spaced(value: &Value) -> String {
    let (mut text, mut inside, mut escaped) = (String::new(), false, false);
    for character in value.to_string().chars() {
        text.push(character);
        if !inside && matches!(character, ',' | ':') {
            text.push(' ');
        }
        inside ^= character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
    }
    text
}
