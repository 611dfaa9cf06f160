//! Equal windows among those that have a short period as a whole: they are equal if their roots are, and the places at which these begin.

use super::anchors::Anchor;
use super::periods::smallest_period;

/// Windows in a row with one period: the window at `first + i` is of class `(phase + i) % period` of its root's, for `i` below `len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodicRun {
    pub first: u64,
    pub len: u32,
    pub phase: u32,
    pub period: u32,
    /// Which root, by number.
    pub root: u32,
}

/// Adds the windows of a group, periodic anchors of one key in text order, that occur more than once. `gram_bytes` are what periods were
/// found in; `num_roots` counts on.
pub fn group(text: &[u8], gram_bytes: usize, anchors: &[Anchor], num_roots: &mut u32, runs: &mut Vec<PeriodicRun>) {
    let root_of = |anchor: &Anchor| {
        let gram = &text[anchor.first_window as usize..][..gram_bytes];
        smallest_period(gram).map(|period| &text[anchor.position()..anchor.position() + period])
    };
    // As a rule one root has the key; where hashes collide, one after the other is taken out.
    let mut left: Vec<(&[u8], Anchor)> = anchors.iter().filter_map(|anchor| root_of(anchor).map(|root| (root, *anchor))).collect();
    while let Some(&(root, _)) = left.first() {
        let mut mine = Vec::new();
        left.retain(|(other, anchor)| {
            if *other == root {
                mine.push(*anchor);
            }
            *other != root
        });
        one_root(root.len(), &mine, *num_roots, runs);
        *num_roots += 1;
    }
}

fn one_root(period: usize, anchors: &[Anchor], root: u32, runs: &mut Vec<PeriodicRun>) {
    // The root begins `offset` behind the first window.
    let phase = |anchor: &Anchor, index: usize| (period - anchor.offset as usize + index) % period;
    let mut windows = vec![0_usize; period];
    for anchor in anchors {
        let len = anchor.num_windows();
        windows.iter_mut().for_each(|count| *count += len / period);
        (0..len % period).for_each(|index| windows[phase(anchor, index)] += 1);
    }
    let mut give = |anchor: &Anchor, start: usize, end: usize| {
        if start < end {
            let first = anchor.first_window + start as u64;
            runs.push(PeriodicRun { first, len: (end - start) as u32, phase: phase(anchor, start) as u32, period: period as u32, root });
        }
    };
    for anchor in anchors {
        let len = anchor.num_windows();
        if len >= 2 * period {
            give(anchor, 0, len);
            continue;
        }
        let mut start = 0;
        for index in 0..len {
            if windows[phase(anchor, index)] < 2 {
                give(anchor, start, index);
                start = index + 1;
            }
        }
        give(anchor, start, len);
    }
}
