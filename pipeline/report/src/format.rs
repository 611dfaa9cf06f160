//! Numbers as people read them.

/// `1234567` as `1,234,567`.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1234567` as `1.23 million`: three digits that matter.
pub fn short(value: u64) -> String {
    scaled(value, &[(1_000_000_000_000, " trillion"), (1_000_000_000, " billion"), (1_000_000, " million"), (10_000, "")])
}

/// Bytes in powers of 1000.
pub fn bytes(value: u64) -> String {
    scaled(value, &[(1_000_000_000_000, " TB"), (1_000_000_000, " GB"), (1_000_000, " MB"), (1_000, " kB"), (1, " B")])
}

/// Bytes in powers of 1024, as memory is stated.
pub fn memory(value: u64) -> String {
    scaled(value, &[(1 << 40, " TiB"), (1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB"), (1, " B")])
}

fn scaled(value: u64, units: &[(u64, &str)]) -> String {
    match units.iter().find(|(unit, _)| value >= *unit) {
        None | Some((_, "")) => number(value),
        Some((1, name)) => format!("{value}{name}"),
        Some((unit, name)) => {
            let scaled = value as f64 / *unit as f64;
            let decimals = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
            format!("{scaled:.decimals$}{name}")
        }
    }
}

/// `part` of `whole` in percent; small parts keep a digit that is not zero.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_string();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    if part == 0 {
        "0%".to_string()
    } else if part == whole {
        "100%".to_string()
    } else if percent < 0.1 {
        "<0.1%".to_string()
    } else if percent > 99.9 {
        ">99.9%".to_string()
    } else {
        format!("{percent:.1}%")
    }
}

/// A duration.
pub fn seconds(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.1} s")
    } else if value < 120.0 {
        format!("{value:.0} s")
    } else if value < 7200.0 {
        format!("{:.0} min", value / 60.0)
    } else {
        format!("{:.1} h", value / 3600.0)
    }
}

/// `near-duplicates` as `Near duplicates`.
pub fn title(name: &str) -> String {
    let text = name.replace(['-', '_'], " ");
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Escapes text for HTML and for attributes in double quotes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1234567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([9_999, 12_345, 1_234_567, 65_000_000_000].map(short), ["9,999", "12,345", "1.23 million", "65.0 billion"]);
        assert_eq!([0, 999, 7_664_063, 123_456_789].map(bytes), ["0", "999 B", "7.66 MB", "123 MB"]);
        assert_eq!(memory(4 << 30), "4.00 GiB");
        assert_eq!(
            [(0, 10), (1, 10_000), (1, 3), (9_999, 10_000), (3, 3), (0, 0)].map(|(a, b)| percent(a, b)),
            ["0%", "<0.1%", "33.3%", ">99.9%", "100%", "–"]
        );
        assert_eq!([0.25, 45.2, 600.0, 9000.0].map(seconds), ["0.2 s", "45 s", "10 min", "2.5 h"]);
        assert_eq!(title("near-duplicates"), "Near duplicates");
        assert_eq!(escape("<a b=\"c\">&'"), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
    }
}
