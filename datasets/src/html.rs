//! The main content of HTML pages.
//!
//! The page is tokenized, never built as a tree: an element costs a byte on a stack, so that time and memory are linear in the page. Text is cut
//! into blocks at block-level tags. Where `<main>` or `<article>` holds a good share of the text, the blocks outside are left out and of those inside
//! only lists of links; elsewhere blocks are judged by length, link density and the blocks around them, after jusText (J. Pomikálek, Removing
//! Boilerplate and Duplicate Content from Web Corpora, PhD thesis, Masaryk University, 2011) without its stop-word lists, so that no language is
//! favoured.

mod blocks;
mod charset;
mod judge;
mod page;

use crate::{Document, Emit, Reject};
use html5gum::{Token, Tokenizer};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How HTML pages are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether only the main content is kept; false keeps all visible text. Default true.
    pub main_content: bool,
    /// Whether data tables are kept. Default true.
    pub tables: bool,
    /// Whether lists are kept. Default true.
    pub lists: bool,
    /// Share of a block's letters within links above which it is no content, outside `<main>` and `<article>`. Default 0.2 (jusText).
    pub link_density_max: f64,
    /// The same within `<main>` and `<article>`. Default 0.5.
    pub link_density_max_in_main: f64,
    /// Blocks of fewer letters are judged by their neighbours alone. Default 70 (jusText).
    pub length_low: usize,
    /// Blocks of more letters are content by themselves. Default 200 (jusText).
    pub length_high: usize,
    /// Letters that may stand between a heading and the content it is kept for. Default 200 (jusText).
    pub heading_distance_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            main_content: true,
            tables: true,
            lists: true,
            link_density_max: 0.2,
            link_density_max_in_main: 0.5,
            length_low: 70,
            length_high: 200,
            heading_distance_max: 200,
        }
    }
}

/// Reads one page.
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    document.clear();
    let source = match charset::decode(bytes) {
        Ok(source) => source,
        Err(reject) => return emit(Err(reject)),
    };
    let mut page = blocks::Page::read(&source);
    page.describe(document);
    judge::judge(&mut page, settings);
    page.render(document);
    if document.text.is_empty() {
        let detail = if page.is_empty() { "the page has no visible text" } else { "no block of the page is main content" };
        return emit(Err(Reject::new("no-text", 0, detail)));
    }
    emit(Ok(&*document))
}

/// Appends all visible text of a piece of HTML to `document`, with its headings as sections.
pub(crate) fn fragment(source: &str, document: &mut Document) {
    let mut page = blocks::Page::read(source);
    page.keep_all();
    page.render(document);
}

/// Appends an entity's character; what is no entity stays as it is.
pub(crate) fn resolve(entity: &str, out: &mut String) {
    for Ok(token) in Tokenizer::new(entity) {
        if let Token::String(text) = token {
            out.push_str(&String::from_utf8_lossy(&text));
        }
    }
}

#[cfg(test)]
mod tests;
