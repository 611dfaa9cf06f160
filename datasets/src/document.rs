//! What a reader yields for each record: a document, or why there is none.

use std::collections::BTreeMap;

/// A document as its source states it. Readers clear and refill one value, so that a record costs no allocation once warm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The record's number in its file, from 0; `None` where the file is the record.
    pub record: Option<u64>,
    pub title: Option<String>,
    /// Paragraphs are separated by an empty line; a section's title is a paragraph of its own; list items and table rows are lines.
    pub text: String,
    /// BCP 47, lower case, such as `en` or `pt-br`.
    pub language: Option<String>,
    /// The licence as the source words it (a URL or a name); [`crate::license::normalize`] gives the id that is kept.
    pub license: Option<String>,
    /// `doi:10.1/x` (lower case), `pmid:1`, `pmcid:PMC1`, `isbn:…`, or the source's own scheme.
    pub identifiers: Vec<String>,
    /// ISO 8601, as exact as stated: `2015`, `2015-03`, `2015-03-21`.
    pub published: Option<String>,
    pub sections: Vec<Section>,
    /// Anything else worth keeping: journal, article type, keywords, specialty, URL.
    pub metadata: BTreeMap<String, String>,
}

/// A section: byte range `[start, end)` of the text from its title on; `level` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub title: String,
    pub level: u32,
    pub start: usize,
    pub end: usize,
}

/// A record that gives no document. Counted by `reason`, written to the ledger; never holds any of the record's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The record's number in its file, from 0; `None` where the file is the record.
    pub record: Option<u64>,
    /// Kebab-case, stable, such as `xml-malformed`, `no-text`, `too-deep`, `record-too-large`, `csv-field-count`.
    pub reason: &'static str,
    /// Byte of the (decompressed) file at which it was noticed.
    pub byte: u64,
    /// What is wrong, in words of ours.
    pub detail: String,
}

impl Reject {
    /// A reject of the record that is its whole file.
    pub fn new(reason: &'static str, byte: usize, detail: impl Into<String>) -> Self {
        Self { record: None, reason, byte: byte as u64, detail: detail.into() }
    }
}

impl Document {
    /// Empties every field and keeps the buffers.
    pub fn clear(&mut self) {
        let Self { record, title, text, language, license, identifiers, published, sections, metadata } = self;
        (*record, *title, *language, *license, *published) = (None, None, None, None, None);
        text.clear();
        identifiers.clear();
        sections.clear();
        metadata.clear();
    }
}
