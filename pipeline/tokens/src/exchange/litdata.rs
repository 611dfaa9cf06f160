//! litData's chunks: `chunk-0-N.bin` and `index.json`, for its `TokensLoader`, one item per chunk.
//!
//! A chunk file: items (u32), where each begins and the last ends (u32), the items. `dim` in the index is the number of its tokens.

use super::mds::offset;
use super::{CHUNK_FILE_BYTES, Folder, chunk_files};
use crate::error::Error;
use crate::shards::ShardSet;
use osler_schemas::shard::Dtype;
use serde_json::json;

pub(super) fn export(set: &ShardSet, folder: &mut Folder) -> Result<(), Error> {
    let header = set.header();
    let mut entries = Vec::new();
    for (number, chunks) in chunk_files(set) {
        let name = format!("chunk-0-{number}.bin");
        let count = (chunks.end - chunks.start) as u32;
        let mut item = vec![0; set.chunk(chunks.start).map_or(0, |chunk| chunk.num_bytes())];
        let first = 4 + 4 * (u64::from(count) + 1);
        let mut head = count.to_le_bytes().to_vec();
        for index in 0..=u64::from(count) {
            head.extend_from_slice(&offset(&name, first + index * item.len() as u64)?.to_le_bytes());
        }
        let mut output = folder.create(&name)?;
        output.write(&head)?;
        for chunk in chunks.filter_map(|index| set.chunk(index)) {
            chunk.copy_bytes_into(&mut item);
            output.write(&item)?;
        }
        let dim = u64::from(count) * u64::from(header.context_length);
        entries.push(json!({"chunk_bytes": output.num_bytes, "chunk_size": count, "dim": dim, "filename": name}));
        folder.close(output)?;
    }
    // Positions in the list of types that litData numbers: NumPy's uint16 and uint32.
    let dtype = match header.dtype {
        Dtype::U16 => 5,
        Dtype::U32 => 6,
    };
    let leaf = "[1, {\"type\": null, \"context\": null, \"children_spec\": []}]";
    let config = json!({
        "chunk_bytes": CHUNK_FILE_BYTES, "chunk_size": null, "compression": null, "data_format": [format!("no_header_numpy:{dtype}")],
        "data_spec": leaf, "encryption": null, "item_loader": "TokensLoader",
    });
    folder.write("index.json", json!({"chunks": entries, "config": config, "updated_at": "0"}).to_string().as_bytes())
}
