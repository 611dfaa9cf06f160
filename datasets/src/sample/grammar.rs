//! Expands sentence patterns: slots become words of the vocabulary, or numbers.

use super::prng::Prng;
use super::vocabulary::list;
use std::fmt::Write;

/// What an article is about: the words that its sentences come back to.
#[derive(Debug, Clone, Default)]
pub struct Topic {
    pub disease: &'static str,
    pub treatment: &'static str,
    pub comparator: &'static str,
    /// Entries of the reference list, which citations point into.
    pub num_references: u64,
}

impl Topic {
    /// Draws a topic.
    pub fn draw(prng: &mut Prng) -> Self {
        let mut word = |name| prng.pick(list(name)).copied().unwrap_or_default();
        let (disease, treatment, comparator) = (word("disease"), word("drug"), word("drug"));
        Self { disease, treatment, comparator, num_references: prng.between(12, 45) }
    }
}

/// Patterns nest at most this deep (an opener that holds a group that holds a risk that holds a disease).
const DEPTH_MAX: usize = 8;

/// One sentence (or phrase) from the list `name`, its first letter in upper case.
pub fn sentence(name: &str, topic: &Topic, prng: &mut Prng) -> String {
    let mut text = String::with_capacity(192);
    if let Some(pattern) = prng.pick(list(name)) {
        expand(pattern, topic, prng, &mut text, 0);
    }
    capitalize(&mut text);
    text
}

/// Appends `pattern` to `out` with its slots filled.
pub fn expand(pattern: &str, topic: &Topic, prng: &mut Prng, out: &mut String, depth: usize) {
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((slot, tail)) = after.split_once('}') else { break };
        rest = tail;
        if number(slot, topic, prng, out) || depth >= DEPTH_MAX {
            continue;
        }
        match slot {
            "DISEASE" => out.push_str(topic.disease),
            "TREATMENT" => out.push_str(topic.treatment),
            "COMPARATOR" => out.push_str(topic.comparator),
            "marker_name" => {
                let marker = prng.pick(list("marker")).copied().unwrap_or_default();
                out.push_str(marker.split([' ', '{']).next().unwrap_or_default());
            }
            _ => {
                if let Some(pattern) = prng.pick(list(slot)) {
                    expand(pattern, topic, prng, out, depth + 1);
                }
            }
        }
    }
    out.push_str(rest);
}

/// Appends a number if `slot` is one of the number slots. Writing to a `String` cannot fail.
fn number(slot: &str, topic: &Topic, prng: &mut Prng, out: &mut String) -> bool {
    let mut integer = |low: u64, high: u64| prng.between(low, high);
    let _ = match slot {
        "n" => write!(out, "{}", integer(5, 240)),
        "i" => write!(out, "{}", integer(20, 990)),
        "one" => write!(out, "{}", integer(2, 9)),
        "two" => write!(out, "{:02}", integer(1, 99)),
        "d" => write!(out, "{}.{}", integer(5, 99), integer(0, 9)),
        "s" => write!(out, "{}.{:02}", integer(0, 9), integer(1, 99)),
        "big" => write!(out, "{},{:03}", integer(1, 9), integer(0, 999)),
        "pct" => write!(out, "{}.{}%", integer(1, 94), integer(0, 9)),
        "ci" => {
            let low = integer(10, 180);
            let high = low + integer(11, 150);
            write!(out, "{}.{:02} to {}.{:02}", low / 100, low % 100, high / 100, high % 100)
        }
        "p" => write!(out, "0.{:03}", integer(1, 899)),
        "kappa" => write!(out, "0.{:02}", integer(55, 98)),
        "dose" => {
            let unit = ["mg", "mg", "mg", "µg", "mg/kg", "g", "IU"].get(integer(0, 6) as usize).copied().unwrap_or("mg");
            write!(out, "{}{} {unit}", integer(1, 95), ["", "0", ".5"].get(integer(0, 2) as usize).copied().unwrap_or(""))
        }
        "year" => write!(out, "{}", integer(1998, 2024)),
        "age" => write!(out, "{}", integer(12, 19)),
        "older" => write!(out, "{}", integer(20, 80)),
        "years" => write!(out, "{}", integer(21, 89)),
        "weeks" => write!(out, "{}", integer(24, 36)),
        "bmi" => write!(out, "{}", integer(25, 45)),
        "sys" => write!(out, "{}", integer(82, 198)),
        "dia" => write!(out, "{}", integer(42, 108)),
        "pulse" => write!(out, "{}", integer(44, 148)),
        "temp" => write!(out, "{}.{}", integer(35, 40), integer(0, 9)),
        "sat" => write!(out, "{}", integer(78, 99)),
        "breaths" => write!(out, "{}", integer(10, 38)),
        "cold" => write!(out, "{}", integer(20, 86)),
        "code" => write!(out, "{}/{}-{}", integer(1998, 2024), integer(100, 999), integer(10, 99)),
        "snv" => {
            let base = |index| ["A", "C", "G", "T"].get(index as usize).copied().unwrap_or("A");
            let from = integer(0, 3);
            write!(out, "{}>{}", base(from), base((from + integer(1, 3)) % 4))
        }
        "ref" => write!(out, "{}", integer(1, topic.num_references.max(1))),
        _ => return false,
    };
    true
}

/// Puts the first letter in upper case.
pub fn capitalize(text: &mut String) {
    if let Some(first) = text.chars().next()
        && first.is_lowercase()
    {
        let upper: String = first.to_uppercase().collect();
        text.replace_range(..first.len_utf8(), &upper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every list that patterns or articles draw from.
    const ROOTS: &[&str] = &[
        "background",
        "methods",
        "statistics",
        "results",
        "discussion",
        "limitation",
        "conclusion",
        "case",
        "course",
        "criterion",
        "caption",
        "tablecaption",
        "row",
        "title",
        "casetitle",
        "journal",
        "opener",
        "closer",
        "surname",
        "given",
    ];

    #[test]
    fn every_slot_has_words_and_none_is_left_open() {
        let mut prng = Prng::new(7, 7);
        let topic = Topic::draw(&mut prng);
        let mut pending: Vec<&str> = ROOTS.to_vec();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = pending.pop() {
            assert!(!list(name).is_empty(), "`{name}` is no list");
            for pattern in list(name) {
                let slots = pattern.split('{').skip(1).map(|rest| rest.split_once('}').expect("closed").0);
                for slot in slots.filter(|slot| !number(slot, &topic, &mut Prng::new(1, 1), &mut String::new())) {
                    if !["DISEASE", "TREATMENT", "COMPARATOR", "marker_name"].contains(&slot) && seen.insert(slot) {
                        pending.push(slot);
                    }
                }
                for _ in 0..20 {
                    let mut text = String::new();
                    expand(pattern, &topic, &mut prng, &mut text, 0);
                    assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
                }
            }
        }
    }

    #[test]
    fn sentences_begin_with_a_capital_and_end_with_a_stop() {
        let mut prng = Prng::new(3, 0);
        let topic = Topic::draw(&mut prng);
        for name in ["background", "methods", "results", "discussion", "case", "course", "conclusion"] {
            for _ in 0..50 {
                let text = sentence(name, &topic, &mut prng);
                assert!(text.ends_with('.') && !text.starts_with(char::is_lowercase), "{text}");
            }
        }
    }
}
