//! The two rules that decide which windows are removed, and the cover that turns removed windows into spans with a kept copy each.

use super::kept::{Copies, KeptWindows};
use super::resources::Resources;
use super::sparse::common_prefix;
use super::text::TextArena;
use super::windows::{ClassRun, WindowClasses};
use crate::operator::Error;

/// Documents after which the scan asks whether to go on.
const CHECK_DOCUMENTS: usize = 4096;

/// A removed byte range `[start, end)` of [`TextArena::bytes`], whole characters of one document. `copy` is where the same bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    pub start: usize,
    pub end: usize,
    pub copy: Option<usize>,
}

/// What one pass removes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removals {
    /// Sorted and disjoint.
    pub removals: Vec<Removal>,
    /// Bytes that a removed window covers, by document: also those of characters that are given back.
    pub covered_bytes: Vec<usize>,
}

/// Removes a window exactly if an equal window lies wholly in kept bytes and ends before it; see the module above for why one scan from
/// left to right decides it.
///
/// Only windows that occur more than once matter, so the scan goes from one run of them to the next. Before it looks at a window, `noted`
/// catches up with the windows that end before that one. One of those is wholly kept exactly if it begins at or behind `removed_until`:
/// every removed window so far begins before it ends, or it would have been noted already.
///
/// Windows of a run are decided together as far as that makes no difference. Where the first has a kept copy, all whose copies follow that
/// one are removed: what is noted meanwhile begins before `removed_until`, so nothing is. Where it has none, all are kept up to the first
/// that has a copy or could be given one by what is noted meanwhile.
///
/// # Errors
/// [`Error::Closed`] when the run should stop.
pub fn keep_first(arena: &TextArena, classes: &impl WindowClasses, length: usize, resources: &Resources) -> Result<Removals, Error> {
    let mut kept = KeptWindows::default();
    let (mut runs, mut noted) = (classes.runs().peekable(), Noted { runs: classes.runs(), run: None });
    let mut cover = Cover { arena, removals: Vec::new(), covered: 0, pending: None, open: false };
    let mut covered_bytes = Vec::with_capacity(arena.len());
    for index in 0..arena.len() {
        if index % CHECK_DOCUMENTS == 0 {
            resources.go_on()?;
        }
        let range = arena.range(index);
        let (mut removed_until, mut num_removed) = (range.start, 0);
        while let Some(mut run) = runs.next_if(|run| run.first < range.end) {
            while run.len > 0 {
                noted.catch_up(run.first, removed_until, length, &mut kept);
                let num_windows = match kept.copies(run.class, run.len, noted.undisturbed(&run, length)) {
                    Copies::None { num_windows } => num_windows,
                    Copies::At { place, num_windows } => {
                        let end = run.first + num_windows - 1 + length;
                        num_removed += end - run.first.max(removed_until);
                        removed_until = end;
                        cover.add_all(run.first, num_windows, length, Some(place));
                        num_windows
                    }
                };
                run.advance(num_windows);
            }
        }
        noted.catch_up(range.end, removed_until, length, &mut kept);
        cover.end_document();
        covered_bytes.push(num_removed);
    }
    Ok(Removals { removals: cover.removals, covered_bytes })
}

/// Removes every window that occurs elsewhere, its first occurrence too.
pub fn keep_none(arena: &TextArena, classes: &impl WindowClasses, length: usize) -> Removals {
    let mut runs = classes.runs().peekable();
    let mut cover = Cover { arena, removals: Vec::new(), covered: 0, pending: None, open: false };
    let mut covered_bytes = Vec::with_capacity(arena.len());
    for index in 0..arena.len() {
        let range = arena.range(index);
        let (mut removed_until, mut num_removed) = (range.start, 0);
        while let Some(run) = runs.next_if(|run| run.first < range.end) {
            let end = run.first + run.len - 1 + length;
            num_removed += end - run.first.max(removed_until);
            removed_until = end;
            cover.add_all(run.first, run.len, length, None);
        }
        cover.end_document();
        covered_bytes.push(num_removed);
    }
    Removals { removals: cover.removals, covered_bytes }
}

/// The windows that the scan has passed whole, and what they are noted for.
struct Noted<I> {
    runs: I,
    /// What is left of the current run.
    run: Option<ClassRun>,
}

impl<I: Iterator<Item = ClassRun>> Noted<I> {
    /// Notes the windows that end at or before `end` and have no byte before `removed_until` as kept, where they are the first of their class.
    fn catch_up(&mut self, end: usize, removed_until: usize, length: usize, kept: &mut KeptWindows) {
        loop {
            let Some(run) = self.run.as_mut().filter(|run| run.len > 0) else {
                self.run = self.runs.next();
                if self.run.is_none() {
                    return;
                }
                continue;
            };
            if run.first + length > end {
                return;
            }
            let num_windows = run.len.min(end - length - run.first + 1);
            let removed = removed_until.saturating_sub(run.first).min(num_windows);
            kept.note(run.class + removed, run.first + removed, num_windows - removed);
            run.advance(num_windows);
        }
    }

    /// How many windows of `run` can be looked at before any is noted, and be no different: one at least.
    ///
    /// The next window to be noted, at `next.first`, is noted before `run`'s window number `before` is looked at, the one behind it before
    /// the one behind that, and so on. So one of `run` is noted before it is looked at exactly if its class is `before` or more ahead of
    /// those that are noted with it.
    fn undisturbed(&self, run: &ClassRun, length: usize) -> usize {
        let Some(next) = self.run.as_ref().filter(|next| next.len > 0) else { return run.len };
        let before = next.first + length - run.first;
        let ahead = next.class.checked_sub(run.class).filter(|&ahead| ahead >= before);
        run.len.min(before + next.len).min(ahead.unwrap_or(usize::MAX))
    }
}

/// Covers removed windows, which come in order, by few spans with one copy each.
///
/// A window shrinks to the whole characters in it. The span that must begin at `covered` is taken from the pending window: of those that
/// begin no later, the last, because it reaches furthest. Before that the last span is stretched as far as its copy agrees: a long repeat
/// is one span, whatever the number of windows in it.
struct Cover<'a> {
    arena: &'a TextArena,
    removals: Vec<Removal>,
    /// Everything before is covered, or kept.
    covered: usize,
    pending: Option<Removal>,
    /// Whether the last of `removals` ends at `covered` in this document.
    open: bool,
}

/// So many bytes always hold a whole character.
const WHOLE_CHARACTER_BYTES: usize = 7;

impl Cover<'_> {
    /// Adds windows in a row, whose copies are in a row too.
    fn add_all(&mut self, start: usize, num_windows: usize, length: usize, copy: Option<usize>) {
        let mut at = 0;
        while at < num_windows {
            self.add(start + at, start + at + length, copy.map(|copy| copy + at));
            // Up to the one that begins at `covered`, each only takes the place of the one before.
            let last = self.covered.saturating_sub(start).min(num_windows - 1);
            at = if length < WHOLE_CHARACTER_BYTES { at + 1 } else { last.max(at + 1) };
        }
    }

    fn add(&mut self, start: usize, end: usize, copy: Option<usize>) {
        let (mut first, mut last) = (start, end);
        while first < end && !self.arena.is_char_boundary(first) {
            first += 1;
        }
        while last > first && !self.arena.is_char_boundary(last) {
            last -= 1;
        }
        if first == last {
            return;
        }
        let window = Removal { start: first, end: last, copy: copy.map(|copy| copy + (first - start)) };
        if self.pending.is_some() && first > self.covered {
            self.flush();
        }
        if first > self.covered {
            (self.covered, self.open) = (first, false);
        }
        if last > self.covered {
            self.pending = Some(window);
        }
    }

    fn flush(&mut self) {
        let Some(window) = self.pending.take() else { return };
        if self.open {
            self.stretch(window.end);
        }
        if self.covered < window.end {
            let copy = window.copy.map(|copy| copy + (self.covered - window.start));
            self.removals.push(Removal { start: self.covered, end: window.end, copy });
            (self.covered, self.open) = (window.end, true);
        }
    }

    /// Stretches the last span towards `end` over bytes that follow its copy too and are kept there. The copy ends before the pending
    /// window begins, since windows are removed for copies that end before them: the fate of those bytes is known.
    fn stretch(&mut self, end: usize) {
        let Some(&last) = self.removals.last() else { return };
        let text = self.arena.bytes();
        let Some(copy) = last.copy else {
            if let Some(last) = self.removals.last_mut() {
                (last.end, self.covered) = (end, end);
            }
            return;
        };
        let copy_end = copy + (last.end - last.start);
        let document_end = self.arena.range(self.arena.document_at(copy)).end;
        let removed = self.removals.partition_point(|removal| removal.end <= copy_end);
        let limit = self.removals.get(removed).map_or(document_end, |removal| removal.start.min(document_end)).max(copy_end);
        let agreeing = common_prefix(&text[last.end..end], &text[copy_end..limit]);
        let mut stretched = last.end + agreeing;
        while !self.arena.is_char_boundary(stretched) {
            stretched -= 1;
        }
        if let Some(last) = self.removals.last_mut() {
            (last.end, self.covered) = (stretched, stretched);
        }
    }

    /// Spans never go on into the next document, even where they touch.
    fn end_document(&mut self) {
        self.flush();
        self.open = false;
    }
}

/// Gives back the part of a word at each end of a cut: a word is a run of characters between white space, and a cut is what touching
/// removals take away together.
pub fn give_back_partial_words(arena: &TextArena, removals: &mut Vec<Removal>) {
    let mut kept = 0;
    let mut first = 0;
    while first < removals.len() {
        let document = arena.range(arena.document_at(removals[first].start));
        let mut last = first;
        while last + 1 < removals.len() && removals[last].end == removals[last + 1].start && removals[last].end < document.end {
            last += 1;
        }
        let text = arena.text(arena.document_at(document.start));
        let (start, end) = whole_words(text, removals[first].start - document.start, removals[last].end - document.start);
        let (start, end) = (start + document.start, end + document.start);
        for index in first..=last {
            let Removal { start: old_start, end: old_end, copy } = removals[index];
            let (new_start, new_end) = (old_start.max(start), old_end.min(end));
            if new_start < new_end {
                removals[kept] = Removal { start: new_start, end: new_end, copy: copy.map(|copy| copy + (new_start - old_start)) };
                kept += 1;
            }
        }
        first = last + 1;
    }
    removals.truncate(kept);
}

/// The largest range inside `[start, end)` that cuts through no word; empty where there is none.
fn whole_words(text: &str, start: usize, end: usize) -> (usize, usize) {
    let (before, rest) = text.split_at(start);
    let (cut, after) = rest.split_at(end - start);
    let in_word = |left: &str, right: &str| left.ends_with(|c: char| !c.is_whitespace()) && right.starts_with(|c: char| !c.is_whitespace());
    let new_start = if in_word(before, cut) { cut.find(char::is_whitespace).map_or(end, |offset| start + offset) } else { start };
    let remaining = &text[new_start..end];
    let new_end = if in_word(remaining, after) {
        remaining.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(new_start, |(offset, c)| new_start + offset + c.len_utf8())
    } else {
        end
    };
    (new_start, new_end)
}
