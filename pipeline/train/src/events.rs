//! TensorBoard event files: records of protocol-buffer messages, each framed by its length and masked CRC-32C sums.
//!
//! The framing is that of TFRecord files, the messages those of `event.proto` and `summary.proto` of TensorFlow: `Event { wall_time = 1:
//! double, step = 2: int64, file_version = 3: string, summary = 5: Summary }`, `Summary { value = 1: { tag = 1: string, simple_value = 2:
//! float } }`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
}

impl EventWriter {
    /// A new file in `folder` for a run that goes on after `step`. TensorBoard reads all files of a folder as one run, and where steps
    /// repeat it takes the later file's.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn create(folder: &Path, step: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let seconds = now();
        let name = format!("events.out.tfevents.{:010}.{step}.osler", seconds as u64);
        let mut writer = Self { file: File::create(folder.join(name))? };
        let mut event = Vec::new();
        double(&mut event, 1, seconds);
        bytes(&mut event, 3, b"brain.Event:2");
        writer.record(&event)?;
        Ok(writer)
    }

    /// Values of one step.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, tag.as_bytes());
            varint(&mut entry, 2 << 3 | FIXED_32);
            entry.extend((*value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        let mut event = Vec::new();
        double(&mut event, 1, now());
        varint(&mut event, 2 << 3);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked(data).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Wire types of protocol buffers; that of varints is 0.
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | LENGTH);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | FIXED_64);
    out.extend(value.to_le_bytes());
}

/// The sum as TFRecord files hold it: rotated by 15 bits, plus a constant.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), bit by bit: a step writes a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let step = |sum: u32, &byte: &u8| (0..8).fold(sum ^ u32::from(byte), |sum, _| sum >> 1 ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()));
    !data.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720, appendix B.4.
    #[test]
    fn published_sums() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    #[test]
    fn records_are_framed() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 0).unwrap();
        writer.scalars(300, &[("loss".into(), 1.5)]).unwrap();
        let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut rest = &fs::read(path).unwrap()[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(masked(&rest[..8]).to_le_bytes(), rest[8..12]);
            assert_eq!(masked(&rest[12..12 + len]).to_le_bytes(), rest[12 + len..16 + len]);
            records.push(rest[12..12 + len].to_vec());
            rest = &rest[16 + len..];
        }
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // Step 300 as a varint, then a summary of one value.
        assert!(records[1].ends_with(b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\xc0\x3f"), "{:?}", records[1]);
    }
}
