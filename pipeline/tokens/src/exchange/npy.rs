//! NumPy's files, one per shard: an array of chunks by positions, padding included.

use super::Folder;
use crate::error::Error;
use crate::shards::ShardSet;
use osler_schemas::shard::Dtype;

pub(super) fn export(set: &ShardSet, folder: &mut Folder) -> Result<(), Error> {
    for shard in set.shards() {
        let header = shard.header();
        let mut output = folder.create(&format!("part-{:05}.npy", header.shard))?;
        output.write(&head(header.dtype, shard.num_chunks() as u64, header.context_length))?;
        let mut row = Vec::new();
        for chunk in shard.chunks() {
            row.resize(chunk.num_bytes(), 0);
            chunk.copy_bytes_into(&mut row);
            output.write(&row)?;
        }
        folder.close(output)?;
    }
    Ok(())
}

/// The header of version 1.0: magic, version, its length, and a Python dictionary that ends on a multiple of 64 bytes.
fn head(dtype: Dtype, num_chunks: u64, context_length: u32) -> Vec<u8> {
    let dtype = match dtype {
        Dtype::U16 => "<u2",
        Dtype::U32 => "<u4",
    };
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({num_chunks}, {context_length}), }}");
    let padding = 63 - (10 + text.len()) % 64;
    text.push_str(&" ".repeat(padding));
    text.push('\n');
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&(text.len() as u16).to_le_bytes());
    head.extend_from_slice(text.as_bytes());
    head
}
