//! Where the first kept window of each class is.

use std::collections::BTreeMap;

/// What is known of windows in a row: how many have no kept copy, or have copies in a row from `place` on.
#[derive(Debug, PartialEq, Eq)]
pub enum Copies {
    None { num_windows: usize },
    At { place: usize, num_windows: usize },
}

/// The classes that have a kept window, as disjoint ranges of classes whose first kept windows are in a row. Every call of
/// [`note`](Self::note) adds at most one range more than it meets, and joins what goes on: there are as many as there are runs of windows,
/// not as there are windows.
#[derive(Debug, Default)]
pub struct KeptWindows {
    /// By first class.
    ranges: BTreeMap<usize, Kept>,
}

/// Class `first + i` was first kept at `place + i`, for `i` below `len`.
#[derive(Debug, Clone, Copy)]
struct Kept {
    len: usize,
    place: usize,
}

impl KeptWindows {
    /// Of `len` classes from `class` on, what is known of the first ones; of `undisturbed` at most, if they have no copy.
    pub fn copies(&self, class: usize, len: usize, undisturbed: usize) -> Copies {
        if let Some((first, kept)) = self.before(class).filter(|(first, kept)| class < first + kept.len) {
            return Copies::At { place: kept.place + (class - first), num_windows: len.min(first + kept.len - class) };
        }
        Copies::None { num_windows: len.min(undisturbed).min(self.next(class).map_or(usize::MAX, |next| next - class)) }
    }

    /// Notes windows in a row, from `position` on, as kept, where they are the first of their class.
    pub fn note(&mut self, class: usize, position: usize, len: usize) {
        let mut at = class;
        while at < class + len {
            let before = self.before(at);
            if let Some((first, kept)) = before.filter(|(first, kept)| at < first + kept.len) {
                at = first + kept.len;
                continue;
            }
            let end = self.next(at).map_or(class + len, |next| next.min(class + len));
            let place = position + (at - class);
            match before {
                Some((first, kept)) if first + kept.len == at && kept.place + kept.len == place => {
                    self.ranges.insert(first, Kept { len: end - first, ..kept });
                }
                _ => {
                    self.ranges.insert(at, Kept { len: end - at, place });
                }
            }
            at = end;
        }
    }

    /// The last range that does not begin behind `class`.
    fn before(&self, class: usize) -> Option<(usize, Kept)> {
        self.ranges.range(..=class).next_back().map(|(&first, &kept)| (first, kept))
    }

    /// Where the first range behind `class` begins.
    fn next(&self, class: usize) -> Option<usize> {
        self.ranges.range(class + 1..).next().map(|(&first, _)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// One slot per class is the definition.
        #[test]
        fn ranges_say_what_slots_say(notes in prop::collection::vec((0usize..40, 0usize..12, 0usize..20), 0..30)) {
            let (mut kept, mut slots, mut position) = (KeptWindows::default(), [None; 60], 0);
            for (class, len, gap) in notes {
                position += gap;
                kept.note(class, position, len);
                for (at, slot) in slots.iter_mut().skip(class).take(len).enumerate() {
                    slot.get_or_insert(position + at);
                }
                position += len;
                for class in 0..60 {
                    for len in [1, 5, 60 - class] {
                        let known = &slots[class..(class + len).min(60)];
                        match kept.copies(class, known.len(), 7) {
                            Copies::None { num_windows } => {
                                prop_assert!(known[..num_windows].iter().all(Option::is_none));
                                prop_assert!(num_windows == known.len().min(7) || known[num_windows].is_some());
                            }
                            Copies::At { place, num_windows } => {
                                prop_assert!(num_windows > 0 && known[..num_windows].iter().enumerate().all(|(at, slot)| *slot == Some(place + at)));
                            }
                        }
                    }
                }
            }
            // Neither empty nor to be joined.
            for ((first, kept), (next, other)) in kept.ranges.iter().zip(kept.ranges.iter().skip(1)) {
                prop_assert!(kept.len > 0 && first + kept.len <= *next);
                prop_assert!(first + kept.len < *next || kept.place + kept.len != other.place);
            }
        }
    }
}
