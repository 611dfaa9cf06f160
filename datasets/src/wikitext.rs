//! Wikitext to text: links to their labels, tables to rows, headings to sections; templates, references and markup go.
//!
//! Two passes, both linear in the page. The first resolves what nests (templates, links, tags) with a stack of bounded height; the second goes
//! by lines. What is never closed stays as it stands, as in MediaWiki, so a stray brace cannot take the rest of a page with it.

mod lines;
mod markup;
mod template;

use crate::Document;
use crate::xml::TextBuilder;
use serde::{Deserialize, Serialize};

/// What of a page goes to the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Captions of images; default yes.
    pub captions: bool,
    /// Tables, a line a row; default yes. Navigation boxes never.
    pub tables: bool,
    /// Sections left out, by title, lower case; default those that hold references and links, in eight languages.
    pub drop_sections: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { captions: true, tables: true, drop_sections: DROPPED_SECTIONS.iter().map(|title| (*title).to_owned()).collect() }
    }
}

#[rustfmt::skip]
const DROPPED_SECTIONS: [&str; 42] = [
    "references", "external links", "see also", "further reading", "notes", "footnotes", "bibliography", "citations", "sources", "notes and references",
    "einzelnachweise", "weblinks", "siehe auch", "literatur", "quellen", "anmerkungen",
    "références", "liens externes", "voir aussi", "bibliographie", "notes et références", "articles connexes",
    "referencias", "enlaces externos", "véase también", "bibliografía", "notas",
    "referências", "ligações externas", "ver também", "bibliografia", "leitura adicional",
    "przypisy", "linki zewnętrzne", "zobacz też",
    "note", "collegamenti esterni", "voci correlate", "altri progetti",
    "bronnen, noten en/of referenties", "externe links", "zie ook",
];

/// Stands before characters that are text although they would be markup at the start of a line. XML cannot hold it.
const LITERAL: char = '\u{1}';
/// A line break inside preformatted text.
const BREAK: char = '\u{2}';
/// How deep templates and links may nest; what is deeper is text.
const FRAMES_MAX: usize = 64;

/// Renders a page's wikitext into the document's text and sections.
pub fn render(wikitext: &str, settings: &Settings, document: &mut Document) {
    let resolved = markup::resolve(wikitext, settings);
    let mut text = TextBuilder::new();
    // Takes the document's buffers over.
    text.finish(document);
    lines::render(&resolved, settings, &mut text);
    text.finish(document);
}

/// Returns whether a template of this name marks a page that only tells apart what has the same name.
pub fn is_disambiguation(wikitext: &str) -> bool {
    const NAMES: [&str; 9] = [
        "{{disambig",
        "{{dab}}",
        "{{hndis",
        "{{begriffsklärung",
        "{{homonymie",
        "{{desambiguación",
        "{{desambiguação",
        "{{ujednoznacznienie",
        "{{disambigua",
    ];
    // Such templates stand at the end, or in German at the beginning.
    let (head, tail) = (wikitext.floor_char_boundary(2000), wikitext.floor_char_boundary(wikitext.len().saturating_sub(2000)));
    [&wikitext[..head], &wikitext[tail..]].iter().any(|part| {
        let part = part.to_lowercase();
        NAMES.iter().any(|name| part.contains(name))
    })
}

#[cfg(test)]
mod tests;
