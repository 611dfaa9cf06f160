//! What a page says of itself, and the document it becomes.

use super::blocks::{Attributes, Block, Kind, Page};
use crate::Document;
use crate::fields::{close_sections, date, heading, identifier, language};
use std::collections::BTreeMap;

/// What `<head>` and links say.
#[derive(Default)]
pub(super) struct Metadata {
    title_tag: String,
    /// Titles given for citation and for sharing.
    title_cited: Option<String>,
    title_shared: Option<String>,
    language: Option<String>,
    license: Option<String>,
    published: Option<String>,
    identifiers: Vec<String>,
    other: BTreeMap<String, String>,
}

impl Metadata {
    /// Takes a `<meta>` by its name, property or itemprop.
    pub fn meta(&mut self, key: &str, content: &str) {
        let key = key.to_ascii_lowercase();
        if content.is_empty() {
            return;
        }
        let set = |field: &mut Option<String>| field.get_or_insert_with(|| fold(content)).len();
        match key.as_str() {
            "citation_title" | "dc.title" | "dcterms.title" => _ = set(&mut self.title_cited),
            "og:title" | "twitter:title" => _ = set(&mut self.title_shared),
            "content-language" | "dc.language" | "dcterms.language" | "citation_language" => self.language(content),
            "dc.rights" | "dcterms.license" | "dcterms.rights" | "dc.rights.license" | "license" => _ = set(&mut self.license),
            "article:published_time"
            | "citation_publication_date"
            | "citation_date"
            | "citation_online_date"
            | "dc.date"
            | "dc.date.issued"
            | "dcterms.issued"
            | "datepublished"
            | "dcterms.date" => self.published = self.published.take().or_else(|| date(content)),
            "citation_doi" => self.identify("doi", content),
            "citation_pmid" => self.identify("pmid", content),
            "citation_pmcid" => self.identify("pmcid", content),
            "citation_isbn" => self.identify("isbn", content),
            "dc.identifier" | "dcterms.identifier" => {
                let lower = content.to_ascii_lowercase();
                if lower.starts_with("doi:") || lower.contains("doi.org/") || lower.starts_with("10.") {
                    self.identify("doi", content);
                }
            }
            "citation_journal_title" => self.keep("journal", content),
            "og:site_name" => self.keep("site", content),
            "og:url" => self.keep("url", content),
            "keywords" | "citation_keywords" => self.keep("keywords", content),
            "description" | "og:description" => self.keep("description", content),
            _ => {}
        }
    }

    /// Takes a `<link>` or an `<a>` whose `rel` tells what it points at.
    pub fn link(&mut self, attributes: &Attributes) {
        for rel in attributes.rel.split_ascii_whitespace() {
            if attributes.href.is_empty() {
                return;
            }
            match rel.to_ascii_lowercase().as_str() {
                "license" => _ = self.license.get_or_insert_with(|| attributes.href.clone()),
                "canonical" => _ = self.other.insert("url".into(), attributes.href.clone()),
                _ => {}
            }
        }
    }

    pub fn language(&mut self, code: &str) {
        self.language = self.language.take().or_else(|| language(code));
    }

    pub fn title(&mut self, text: &str) {
        const TITLE_BYTES_MAX: usize = 4096;
        if self.title_tag.len() + text.len() <= TITLE_BYTES_MAX {
            self.title_tag.push_str(text);
        }
    }

    fn identify(&mut self, scheme: &str, value: &str) {
        self.identifiers.extend(identifier(scheme, value).filter(|id| !self.identifiers.contains(id)));
    }

    fn keep(&mut self, key: &str, value: &str) {
        self.other.entry(key.to_owned()).or_insert_with(|| fold(value));
    }
}

impl Page {
    /// Fills what the page says of itself; the title is the one given for citation, else the page's only `<h1>`, else the one given for
    /// sharing, else `<title>`.
    pub fn describe(&self, document: &mut Document) {
        let metadata = &self.metadata;
        let mut first = self.blocks.iter().filter(|block| block.kind == Kind::Heading(1));
        let only = first.next().filter(|_| first.next().is_none()).map(|block| fold(&self.text[block.start..block.end]));
        let tag = Some(fold(&metadata.title_tag));
        let titles = [&metadata.title_cited, &only, &metadata.title_shared, &tag];
        document.title = titles.into_iter().flatten().find(|title| !title.is_empty()).cloned();
        document.language.clone_from(&metadata.language);
        document.license.clone_from(&metadata.license);
        document.published.clone_from(&metadata.published);
        document.identifiers.clone_from(&metadata.identifiers);
        document.metadata.clone_from(&metadata.other);
    }

    /// Appends the kept blocks to the document's text, headings as sections; a heading that repeats the document's title is left out.
    pub fn render(&self, document: &mut Document) {
        let mut previous: Option<&Block> = None;
        for block in self.blocks.iter().filter(|block| block.keep) {
            let text = &self.text[block.start..block.end];
            if let Kind::Heading(level) = block.kind {
                if document.title.as_deref().is_some_and(|title| title == text) && document.sections.is_empty() {
                    continue;
                }
                heading(document, text, u32::from(level));
                previous = None;
                continue;
            }
            let data = |block: &Block| block.table > 0 && self.tables[block.table as usize - 1].is_data();
            let out = &mut document.text;
            match previous {
                Some(before) if data(block) && before.table == block.table => {
                    if before.row != block.row {
                        out.push('\n');
                    } else if before.cell == block.cell {
                        out.push(' ');
                    } else {
                        (before.cell..block.cell).for_each(|_| out.push_str(" | "));
                    }
                    out.extend(text.chars().map(|letter| if letter == '\n' { ' ' } else { letter }));
                }
                Some(before) if block.list > 0 && before.list == block.list && !data(before) => {
                    out.push('\n');
                    listed(block, text, out);
                }
                _ => {
                    if !out.is_empty() {
                        out.push_str("\n\n");
                    }
                    listed(block, text, out);
                }
            }
            previous = Some(block);
        }
        close_sections(document);
    }
}

fn listed(block: &Block, text: &str, out: &mut String) {
    if block.kind == Kind::Item {
        out.push_str("- ");
    }
    out.push_str(text);
}

fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
