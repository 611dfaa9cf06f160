//! Which characters a page's bytes are.

use crate::{Reject, text};
use std::borrow::Cow;

/// Reads a page as UTF-8, as UTF-16 where a byte order mark says so, or as windows-1252 where it is declared and the bytes are not UTF-8.
/// Pages that declare ISO 8859-1 or ASCII are read as windows-1252, as browsers do (WHATWG Encoding Standard, section 4.2).
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Reject> {
    let reject = match text::decode(bytes) {
        Ok(source) => return Ok(source),
        Err(reject) => reject,
    };
    let names = ["windows-1252", "iso-8859-1", "iso8859-1", "latin1", "us-ascii", "ascii", "cp1252", "x-cp1252"];
    match declared(bytes) {
        Some(name) if reject.reason == "invalid-utf8" && names.contains(&name.as_str()) => Ok(Cow::Owned(windows_1252(bytes))),
        _ => Err(reject),
    }
}

/// The encoding that `charset=` names in the first 1,024 bytes, where the HTML standard wants it.
fn declared(bytes: &[u8]) -> Option<String> {
    let head = bytes[..bytes.len().min(1024)].to_ascii_lowercase();
    let at = head.windows(8).position(|window| window == b"charset=")? + 8;
    let name = head[at..].iter().skip_while(|byte| matches!(byte, b'"' | b'\'' | b' '));
    let name: Vec<u8> = name.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).copied().collect();
    String::from_utf8(name).ok()
}

fn windows_1252(bytes: &[u8]) -> String {
    /// What 0x80 to 0x9F stand for (WHATWG index-windows-1252); five bytes are unassigned and stay control characters.
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•',
        '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    let letter = |byte: &u8| match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(*byte),
    };
    bytes.iter().map(letter).collect()
}
