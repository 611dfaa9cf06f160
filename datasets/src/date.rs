//! ISO 8601 dates from the parts that sources give, as exact as the parts are good.

/// `2015`, `2015-03` or `2015-03-21`; the first part that makes no sense and all after it are left out. `None` without a year.
///
/// A month is a number or an English name of at least three letters (`Mar`, `March`, `Sept.`); a range (`Jan-Feb`, `Spring`) is no month.
pub fn iso_date(year: Option<&str>, month: Option<&str>, day: Option<&str>) -> Option<String> {
    let year = number(year?, 4, 4).filter(|year| (1000..=2999).contains(year))?;
    let Some(month) = month.and_then(parse_month) else { return Some(format!("{year:04}")) };
    let day = day.and_then(|day| number(day, 1, 2)).filter(|day| (1..=days_of(year, month)).contains(day));
    Some(match day {
        Some(day) => format!("{year:04}-{month:02}-{day:02}"),
        None => format!("{year:04}-{month:02}"),
    })
}

/// The date at the start of free text: `2015-03-21T…`, `2015/3/21`, `20150321`, `2015 Mar 21`, `2015 Mar-Apr`, `Mar 21, 2015`,
/// `21 March 2015`. `None` where there is no year to be found.
pub fn parse_date(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return iso_date(text.get(..4), text.get(4..6), text.get(6..));
    }
    let is_separator = |character: char| character.is_whitespace() || "-/.,T".contains(character);
    let mut parts = text.split(is_separator).filter(|part| !part.is_empty());
    let (first, second, third) = (parts.next()?, parts.next(), parts.next());
    if number(first, 4, 4).is_some() {
        let is_range = second.is_some_and(|month| parse_month(month).is_some()) && third.is_some_and(is_month_name);
        return iso_date(Some(first), second.filter(|_| !is_range), third);
    }
    match second {
        Some(month) if is_month_name(month) => iso_date(third, second, Some(first)),
        _ if is_month_name(first) && third.is_some() => iso_date(third, Some(first), second),
        _ if is_month_name(first) => iso_date(second, Some(first), None),
        _ => None,
    }
}

fn is_month_name(text: &str) -> bool {
    !text.starts_with(|character: char| character.is_ascii_digit()) && parse_month(text).is_some()
}

fn parse_month(text: &str) -> Option<u32> {
    const NAMES: [&str; 12] =
        ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
    let text = text.trim().trim_end_matches('.');
    if let Some(month) = number(text, 1, 2) {
        return (1..=12).contains(&month).then_some(month);
    }
    let lower = text.to_ascii_lowercase();
    let place = NAMES.iter().position(|name| lower.len() >= 3 && name.starts_with(&lower))?;
    Some(place as u32 + 1)
}

fn number(text: &str, digits_min: usize, digits_max: usize) -> Option<u32> {
    let text = text.trim();
    let is_number = (digits_min..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn days_of(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_exact_as_their_parts_are_good() {
        for (year, month, day, wanted) in [
            (Some("2015"), Some("3"), Some("21"), Some("2015-03-21")),
            (Some(" 2015 "), Some("Mar"), Some("1"), Some("2015-03-01")),
            (Some("2015"), Some("march"), None, Some("2015-03")),
            (Some("2015"), Some("Sept."), Some(""), Some("2015-09")),
            (Some("2015"), None, Some("21"), Some("2015")),
            (Some("2015"), Some("Jan-Feb"), Some("2"), Some("2015")),
            (Some("2015"), Some("13"), Some("2"), Some("2015")),
            (Some("2015"), Some("2"), Some("29"), Some("2015-02")),
            (Some("2000"), Some("02"), Some("29"), Some("2000-02-29")),
            (Some("1900"), Some("02"), Some("29"), Some("1900-02")),
            (Some("15"), Some("02"), Some("2"), None),
            (Some("-015"), Some("02"), Some("2"), None),
            (Some("٢٠١٥"), None, None, None),
            (None, Some("02"), Some("2"), None),
        ] {
            assert_eq!(iso_date(year, month, day).as_deref(), wanted, "{year:?} {month:?} {day:?}");
        }
    }

    #[test]
    fn free_text_gives_its_date() {
        for (text, wanted) in [
            ("2015-03-21T10:00:00Z", Some("2015-03-21")),
            ("2015-03-21", Some("2015-03-21")),
            ("2015/3/1", Some("2015-03-01")),
            ("20150321", Some("2015-03-21")),
            ("2015 Mar 21", Some("2015-03-21")),
            ("2015 Mar", Some("2015-03")),
            ("2015 Mar-Apr", Some("2015")),
            ("2015", Some("2015")),
            ("1998 Dec-1999 Jan", Some("1998-12")),
            ("Mar 21, 2015", Some("2015-03-21")),
            ("March 2015", Some("2015-03")),
            ("21 March 2015", Some("2015-03-21")),
            ("soon", None),
            ("", None),
            ("１２", None),
        ] {
            assert_eq!(parse_date(text).as_deref(), wanted, "{text}");
        }
    }
}
