//! Tells main content from what surrounds it.

use super::Settings;
use super::blocks::{Kind, Page};

/// What a unit is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Good,
    NearGood,
    Short,
    Bad,
}

/// Blocks judged as one: a list, a data table, or a single block.
struct Unit {
    first: usize,
    last: usize,
    letters: usize,
    link_letters: usize,
    heading: bool,
    class: Class,
}

/// Marks the blocks to keep.
pub(super) fn judge(page: &mut Page, settings: &Settings) {
    page.keep_all();
    if settings.main_content {
        let trusted = restrict(page);
        let mut units = units(page);
        classify(&mut units, settings, trusted);
        if !trusted {
            revise(&mut units);
        }
        headings(&mut units, settings, trusted);
        for unit in &units {
            let keep = matches!(unit.class, Class::Good | Class::NearGood | Class::Short);
            page.blocks[unit.first..=unit.last].iter_mut().for_each(|block| block.keep &= keep);
        }
    }
    let tables = &page.tables;
    for block in &mut page.blocks {
        let data = block.table > 0 && tables[block.table as usize - 1].is_data();
        block.keep &= (settings.tables || !data) && (settings.lists || block.list == 0);
    }
}

/// Leaves out what is outside `<main>` or `<article>`, if one holds enough of the text to be the content; and forms, unless one wraps
/// the page. True where the rest can be trusted to be content.
fn restrict(page: &mut Page) -> bool {
    /// Letters of text without links that make a main element believable, and the share of the page that makes an article.
    const MAIN_LETTERS_MIN: usize = 140;
    const ARTICLE_SHARE_MIN: f64 = 0.4;
    const FORM_SHARE_MIN: f64 = 0.5;
    let (mut all, mut main, mut article, mut form) = (0, 0, 0, 0);
    for block in &page.blocks {
        let prose = block.letters - block.link_letters.min(block.letters);
        all += prose;
        main += if block.in_main { prose } else { 0 };
        article += if block.in_article { prose } else { 0 };
        form += if block.in_form { prose } else { 0 };
    }
    let share = |part: usize| part as f64 / all.max(1) as f64;
    if share(form) < FORM_SHARE_MIN {
        page.blocks.iter_mut().for_each(|block| block.keep &= !block.in_form);
    }
    let by_article = share(article) >= ARTICLE_SHARE_MIN;
    let by_main = main >= MAIN_LETTERS_MIN;
    for block in &mut page.blocks {
        block.keep &= if by_main { block.in_main } else { !by_article || block.in_article };
    }
    by_main || by_article
}

fn units(page: &Page) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut group = None;
    for (at, block) in page.blocks.iter().enumerate().filter(|(_, block)| block.keep) {
        let data = block.table > 0 && page.tables[block.table as usize - 1].is_data();
        let heading = matches!(block.kind, Kind::Heading(_));
        let this = if heading {
            None
        } else if data {
            Some((block.table, 0))
        } else {
            (block.list > 0).then_some((0, block.list))
        };
        match units.last_mut() {
            Some(unit) if this.is_some() && this == group => {
                (unit.last, unit.letters, unit.link_letters) = (at, unit.letters + block.letters, unit.link_letters + block.link_letters);
            }
            _ => {
                let (letters, link_letters) = (block.letters, block.link_letters);
                units.push(Unit { first: at, last: at, letters, link_letters, heading, class: Class::Short });
            }
        }
        group = this;
    }
    units
}

fn classify(units: &mut [Unit], settings: &Settings, trusted: bool) {
    let density_max = if trusted { settings.link_density_max_in_main } else { settings.link_density_max };
    for unit in units {
        let density = unit.link_letters as f64 / unit.letters.max(1) as f64;
        unit.class = if unit.heading {
            Class::Short
        } else if density > density_max {
            Class::Bad
        } else if trusted {
            Class::Good
        } else if unit.letters < settings.length_low {
            if unit.link_letters > 0 { Class::Bad } else { Class::Short }
        } else if unit.letters > settings.length_high {
            Class::Good
        } else {
            Class::NearGood
        };
    }
}

/// Decides short and nearly good units by the units around them, as jusText does; the ends of the page count as bad.
fn revise(units: &mut [Unit]) {
    let before = |classes: &mut dyn Iterator<Item = Class>, near: bool| -> Vec<Class> {
        let mut last = Class::Bad;
        let mut out = Vec::new();
        for class in classes {
            out.push(last);
            if class == Class::Good || class == Class::Bad || near && class == Class::NearGood {
                last = class;
            }
        }
        out
    };
    let around = |units: &[Unit], near: bool| -> Vec<(Class, Class)> {
        let left = before(&mut units.iter().map(|unit| unit.class), near);
        let right = before(&mut units.iter().rev().map(|unit| unit.class), near);
        left.into_iter().zip(right.into_iter().rev()).collect()
    };
    let (strict, lenient) = (around(units, false), around(units, true));
    for (unit, (strict, lenient)) in units.iter_mut().zip(strict.into_iter().zip(lenient)) {
        if unit.class == Class::Short && !unit.heading {
            let good = match strict {
                (Class::Good, Class::Good) => true,
                (Class::Bad, Class::Bad) => false,
                (left, right) => left == Class::Bad && lenient.0 == Class::NearGood || right == Class::Bad && lenient.1 == Class::NearGood,
            };
            unit.class = if good { Class::Good } else { Class::Bad };
        }
    }
    let strict = around(units, false);
    for (unit, strict) in units.iter_mut().zip(strict) {
        if unit.class == Class::NearGood {
            unit.class = if strict == (Class::Bad, Class::Bad) { Class::Bad } else { Class::Good };
        }
    }
}

/// Keeps a heading if content follows it, with no more than the distance between them.
fn headings(units: &mut [Unit], settings: &Settings, trusted: bool) {
    let mut distance = usize::MAX;
    for unit in units.iter_mut().rev() {
        if !unit.heading {
            distance = if unit.class == Class::Bad { distance.saturating_add(unit.letters) } else { 0 };
            continue;
        }
        let linked = !trusted && unit.link_letters * 2 > unit.letters;
        unit.class = if distance <= settings.heading_distance_max && !linked { Class::Good } else { Class::Bad };
        // Headings in a row are kept together.
        distance = distance.saturating_add(if unit.class == Class::Good { 0 } else { unit.letters });
    }
}
