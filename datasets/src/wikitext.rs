//! Wikitext to text: links to their labels, tables to rows, headings to sections; templates, references and markup go.
//!
//! Two passes, both linear in the page. The first resolves what nests (templates, links, tags) with a stack of bounded height; the second goes
//! by lines. What is never closed stays as it stands, as in MediaWiki, so a stray brace cannot take the rest of a page with it.

use crate::Document;
use crate::entities;
use crate::xml::TextBuilder;
use memchr::{memchr, memmem};
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
/// A longer name is no template that is rendered.
const NAME_BYTES_MAX: usize = 64;

/// Renders a page's wikitext into the document's text and sections.
pub fn render(wikitext: &str, settings: &Settings, document: &mut Document) {
    let resolved = resolve(wikitext, settings);
    let mut text = TextBuilder::new();
    // Takes the document's buffers over.
    text.finish(document);
    let mut lines = Lines { settings, text, list: false, tables: Vec::new(), dropped: None, pending: Vec::new() };
    for line in resolved.split('\n') {
        lines.line(line);
    }
    lines.end_blocks();
    lines.text.finish(document);
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

// ---- First pass: what nests ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Template,
    Parameter,
    Link,
    ExternalLink,
}

/// Markup that is open: where its opener stands in the output, and its first separator in `pipes`.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: FrameKind,
    start: usize,
    pipes: usize,
}

struct Inliner<'a> {
    text: &'a str,
    at: usize,
    out: String,
    frames: Vec<Frame>,
    /// Offsets in `out` of the `|` of open frames.
    pipes: Vec<usize>,
    settings: &'a Settings,
    /// Closers known to be absent from some offset on, so that no search is repeated.
    absent: Vec<&'static str>,
    /// The next `>`, as last found.
    next_close: usize,
}

/// Bytes that may begin markup.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let bytes = b"{}[]<&'|\n_\x00\x01\x02\r";
    let mut index = 0;
    while index < bytes.len() {
        special[bytes[index] as usize] = true;
        index += 1;
    }
    special
};

fn resolve(text: &str, settings: &Settings) -> String {
    let mut inliner = Inliner {
        text,
        at: 0,
        out: String::with_capacity(text.len()),
        frames: Vec::new(),
        pipes: Vec::new(),
        settings,
        absent: Vec::new(),
        next_close: 0,
    };
    inliner.run();
    inliner.out
}

impl<'a> Inliner<'a> {
    fn run(&mut self) {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() {
            let plain = bytes[self.at..].iter().position(|&byte| SPECIAL[usize::from(byte)]).unwrap_or(bytes.len() - self.at);
            self.copy(plain);
            let Some(&byte) = bytes.get(self.at) else { break };
            match byte {
                b'{' => self.open_braces(),
                b'}' => self.close_braces(),
                b'[' => self.open_bracket(),
                b']' => self.close_bracket(),
                b'<' => self.tag(),
                b'&' => self.entity(),
                b'\'' => self.quotes(),
                b'_' => self.magic_word(),
                b'|' => {
                    if !self.frames.is_empty() {
                        self.pipes.push(self.out.len());
                    }
                    self.copy(1);
                }
                b'\n' => {
                    // Links of either kind end with the line, unless they have a label, which may go on.
                    while let Some(frame) = self.frames.last()
                        && (frame.kind == FrameKind::ExternalLink || (frame.kind == FrameKind::Link && self.pipes.len() == frame.pipes))
                    {
                        self.pipes.truncate(frame.pipes);
                        self.frames.pop();
                    }
                    self.copy(1);
                }
                // Control characters that are no text: two of them mean something here.
                _ => self.at += 1,
            }
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn copy(&mut self, bytes: usize) {
        self.out.push_str(&self.text[self.at..self.at + bytes]);
        self.at += bytes;
    }

    fn run_of(&self, byte: u8) -> usize {
        self.rest().bytes().take_while(|&other| other == byte).count()
    }

    fn push_frame(&mut self, kind: FrameKind, opener: usize) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push(Frame { kind, start: self.out.len(), pipes: self.pipes.len() });
        }
        self.copy(opener);
    }

    /// Closes the innermost frame: its output from the opener on is `self.out[start..]`.
    fn pop_frame(&mut self, index: usize) -> (Frame, Vec<usize>) {
        let frame = self.frames[index];
        // Frames above were never closed; their separators are this frame's no more than theirs.
        let own_end = self.frames.get(index + 1).map_or(self.pipes.len(), |above| above.pipes);
        let pipes = self.pipes[frame.pipes..own_end].to_vec();
        self.frames.truncate(index);
        self.pipes.truncate(frame.pipes);
        (frame, pipes)
    }

    fn open_braces(&mut self) {
        let mut run = self.run_of(b'{');
        while run >= 2 {
            if run == 3 {
                self.push_frame(FrameKind::Parameter, 3);
                return;
            }
            self.push_frame(FrameKind::Template, 2);
            run -= 2;
        }
        self.copy(run);
    }

    fn close_braces(&mut self) {
        let run = self.run_of(b'}');
        // Links inside a template that were never closed do not keep it open.
        let open = self.frames.iter().rposition(|frame| matches!(frame.kind, FrameKind::Template | FrameKind::Parameter));
        let (Some(index), true) = (open, run >= 2) else { return self.copy(run) };
        if self.frames[index].kind == FrameKind::Parameter && run >= 3 {
            let (frame, _) = self.pop_frame(index);
            self.out.truncate(frame.start);
            self.at += 3;
            return;
        }
        self.at += 2;
        let opener = if self.frames[index].kind == FrameKind::Parameter { 3 } else { 2 };
        let (frame, pipes) = self.pop_frame(index);
        let rendered = template(&self.out[frame.start + opener..], frame.start + opener, &pipes);
        self.out.truncate(frame.start);
        if let Some(rendered) = rendered {
            self.out.push_str(&rendered);
        }
    }

    fn open_bracket(&mut self) {
        if self.rest().starts_with("[[") {
            return self.push_frame(FrameKind::Link, 2);
        }
        let rest = &self.rest().as_bytes()[1..];
        let external = ["http://", "https://", "ftp://", "mailto:", "//"].iter().any(|scheme| rest.starts_with(scheme.as_bytes()));
        if external { self.push_frame(FrameKind::ExternalLink, 1) } else { self.copy(1) }
    }

    fn close_bracket(&mut self) {
        match self.frames.last().map(|frame| frame.kind) {
            Some(FrameKind::Link) if self.rest().starts_with("]]") => {
                self.at += 2;
                let (frame, pipes) = self.pop_frame(self.frames.len() - 1);
                self.link(frame.start, &pipes);
            }
            Some(FrameKind::ExternalLink) => {
                self.at += 1;
                let (frame, _) = self.pop_frame(self.frames.len() - 1);
                let label = self.out[frame.start..].split_once([' ', '\t']).map_or(String::new(), |(_, label)| label.trim().to_owned());
                self.out.truncate(frame.start);
                self.out.push_str(&label);
            }
            _ => self.copy(1),
        }
    }

    /// Renders `[[target|label]]`, which begins at `start` of the output.
    fn link(&mut self, start: usize, pipes: &[usize]) {
        let inner = &self.out[start + 2..];
        let target = pipes.first().map_or(inner, |&pipe| &self.out[start + 2..pipe]).trim();
        let label = match target.split_once(':') {
            Some((space, _)) if is_file_namespace(space) => {
                let caption = pipes.last().map_or("", |&pipe| self.out[pipe + 1..].trim());
                let shown = self.settings.captions && !is_image_option(caption);
                if shown { format!("\n\n{caption}\n\n") } else { String::new() }
            }
            Some((space, _)) if is_category_namespace(space) => String::new(),
            Some((space, _)) if pipes.is_empty() && is_language(space) => String::new(),
            _ => match pipes.first() {
                Some(&pipe) if !self.out[pipe + 1..].trim().is_empty() => self.out[pipe + 1..].trim().to_owned(),
                // `[[Foo (bar)|]]` and `[[:Category:Foo]]`.
                Some(_) => target.split(" (").next().unwrap_or(target).to_owned(),
                None => target.strip_prefix(':').unwrap_or(target).to_owned(),
            },
        };
        self.out.truncate(start);
        self.out.push_str(&label);
    }

    /// Drops `__NOTOC__` and its like.
    fn magic_word(&mut self) {
        let rest = self.rest();
        if let Some(inner) = rest.strip_prefix("__") {
            let length = inner.bytes().take_while(u8::is_ascii_uppercase).count();
            if length > 1 && inner[length..].starts_with("__") {
                self.at += length + 4;
                return;
            }
        }
        let run = self.run_of(b'_');
        self.copy(run);
    }

    /// Drops the marks of bold and italics: two, three or five apostrophes; of four the first is text, of more all but five.
    fn quotes(&mut self) {
        let run = self.run_of(b'\'');
        let kept = match run {
            1 => 1,
            4 => 1,
            run => run.saturating_sub(5),
        };
        self.at += run;
        self.out.extend(std::iter::repeat_n('\'', kept));
    }

    fn entity(&mut self) {
        let rest = &self.rest()[1..];
        let length = rest.bytes().take(32).take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'#').count();
        if length == 0 || !rest[length..].starts_with(';') {
            return self.copy(1);
        }
        let name = &rest[..length];
        let decoded = match name {
            "amp" => Some("&".into()),
            "lt" => Some("<".into()),
            "gt" => Some(">".into()),
            "quot" => Some("\"".into()),
            "apos" => Some("'".into()),
            _ => match name.strip_prefix('#') {
                Some(number) => decode_number(number),
                None => entities::lookup(name).map(str::to_owned),
            },
        };
        match decoded {
            Some(text) => {
                self.at += length + 2;
                self.literal(&text);
            }
            None => self.copy(1),
        }
    }

    /// Appends text that is no markup, whatever it looks like.
    fn literal(&mut self, text: &str) {
        if self.out.ends_with('\n') || self.out.is_empty() {
            self.out.push(LITERAL);
        }
        self.out.push_str(text);
    }

    fn tag(&mut self) {
        if self.rest().starts_with("<!--") {
            return self.comment();
        }
        let rest = self.rest();
        let closing = rest[1..].starts_with('/');
        let name_at = 1 + usize::from(closing);
        let length = rest[name_at..].bytes().take(16).take_while(u8::is_ascii_alphanumeric).count();
        let mut name = [0; 16];
        let name = &mut name[..length];
        name.copy_from_slice(&rest.as_bytes()[name_at..name_at + length]);
        name.make_ascii_lowercase();
        let Some(&(_, meaning)) = TAGS.iter().find(|(tag, _)| tag.as_bytes() == name) else { return self.copy(1) };
        let Some(end) = self.tag_end() else { return self.copy(1) };
        let empty = self.text.as_bytes()[end - 1] == b'/';
        let tag_start = self.at;
        self.at = end + 1;
        match meaning {
            Tag::Strip => {}
            Tag::Space => self.out.push(' '),
            Tag::Line => self.out.push('\n'),
            Tag::Paragraph => self.out.push_str("\n\n"),
            Tag::Item if !closing => self.out.push_str("\n* "),
            Tag::Item => {}
            Tag::Cell if !closing => self.out.push_str(" | "),
            Tag::Cell => {}
            Tag::Heading => {
                let marks = "=".repeat(usize::from(name.get(1).copied().unwrap_or(b'2') - b'0').clamp(1, 6));
                if !closing {
                    self.out.push('\n');
                }
                self.out.push_str(&marks);
                if closing {
                    self.out.push('\n');
                }
            }
            Tag::Drop(_) | Tag::Verbatim(_) | Tag::Math(_) | Tag::Preformatted(_) if closing || empty => {}
            Tag::Drop(close) => {
                self.take_until(close);
            }
            Tag::Verbatim(close) => {
                if let Some(inner) = self.take_until(close) {
                    self.literal(&inner.replace('\n', " "));
                }
            }
            Tag::Math(close) => {
                if let Some(inner) = self.take_until(close) {
                    self.literal(&inner.trim().replace('\n', " "));
                }
            }
            Tag::Preformatted(close) => {
                if let Some(inner) = self.take_until(close) {
                    self.out.push('\n');
                    self.literal(&inner.trim_matches('\n').replace('\n', "\u{2}"));
                    self.out.push('\n');
                }
            }
        }
        debug_assert!(self.at > tag_start);
    }

    /// Finds the `>` of the tag at the position, unless a `<` or the end comes first.
    fn tag_end(&mut self) -> Option<usize> {
        if self.next_close <= self.at {
            self.next_close = memchr(b'>', self.rest().as_bytes()).map_or(usize::MAX, |at| self.at + at);
        }
        let end = self.next_close;
        // Attributes are short; a longer stretch to the next `>` is text with a `<` in it.
        (end != usize::MAX && end - self.at < 4096 && memchr(b'<', &self.text.as_bytes()[self.at + 1..end]).is_none()).then_some(end)
    }

    fn comment(&mut self) {
        match memmem::find(self.rest().as_bytes(), b"-->") {
            Some(at) => self.at += at + 3,
            // As in MediaWiki, a comment that is not closed goes on to the end.
            None => self.at = self.text.len(),
        }
    }

    /// Takes what stands before the closing tag, and passes that. `None`, at the same place, where there is none.
    fn take_until(&mut self, close: &'static str) -> Option<&'a str> {
        if self.absent.contains(&close) {
            return None;
        }
        let rest = self.rest();
        let mut from = 0;
        // The name in any case: `</` is found fast, and compared.
        while let Some(at) = memmem::find(&rest.as_bytes()[from..], b"</") {
            let at = from + at;
            let name = &rest.as_bytes()[at + 2..];
            if name.len() >= close.len() && name[..close.len()].eq_ignore_ascii_case(close.as_bytes()) {
                let end = memchr(b'>', name).map_or(rest.len(), |end| at + 2 + end + 1);
                self.at += end;
                return Some(&rest[..at]);
            }
            from = at + 2;
        }
        self.absent.push(close);
        None
    }
}

fn decode_number(number: &str) -> Option<String> {
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => number.parse().ok()?,
    };
    char::from_u32(code).filter(|character| !character.is_control()).map(String::from)
}

/// What a tag means. The name is that of the closing tag up to which its content is taken.
#[derive(Debug, Clone, Copy)]
enum Tag {
    /// The tag goes, its content stays.
    Strip,
    Space,
    Line,
    Paragraph,
    Item,
    Cell,
    Heading,
    /// Tag and content go.
    Drop(&'static str),
    /// The content is text whatever it looks like.
    Verbatim(&'static str),
    Math(&'static str),
    Preformatted(&'static str),
}

#[rustfmt::skip]
const TAGS: [(&str, Tag); 78] = [
    ("ref", Tag::Drop("ref")), ("references", Tag::Drop("references")), ("gallery", Tag::Drop("gallery")), ("timeline", Tag::Drop("timeline")),
    ("score", Tag::Drop("score")), ("templatestyles", Tag::Drop("templatestyles")), ("imagemap", Tag::Drop("imagemap")),
    ("hiero", Tag::Drop("hiero")), ("graph", Tag::Drop("graph")), ("mapframe", Tag::Drop("mapframe")), ("maplink", Tag::Drop("maplink")),
    ("style", Tag::Drop("style")), ("script", Tag::Drop("script")), ("includeonly", Tag::Drop("includeonly")), ("indicator", Tag::Drop("indicator")),
    ("categorytree", Tag::Drop("categorytree")), ("inputbox", Tag::Drop("inputbox")),
    ("math", Tag::Math("math")), ("chem", Tag::Math("chem")), ("ce", Tag::Math("ce")), ("nowiki", Tag::Verbatim("nowiki")),
    ("pre", Tag::Preformatted("pre")), ("syntaxhighlight", Tag::Preformatted("syntaxhighlight")), ("source", Tag::Preformatted("source")),
    ("br", Tag::Space), ("wbr", Tag::Strip), ("hr", Tag::Paragraph), ("p", Tag::Paragraph), ("div", Tag::Line), ("blockquote", Tag::Paragraph),
    ("center", Tag::Line), ("poem", Tag::Line), ("section", Tag::Strip), ("ul", Tag::Line), ("ol", Tag::Line), ("dl", Tag::Line), ("li", Tag::Item),
    ("dt", Tag::Line), ("dd", Tag::Line), ("table", Tag::Paragraph), ("tr", Tag::Line), ("td", Tag::Cell), ("th", Tag::Cell), ("caption", Tag::Line),
    ("tbody", Tag::Strip), ("thead", Tag::Strip), ("h1", Tag::Heading), ("h2", Tag::Heading), ("h3", Tag::Heading), ("h4", Tag::Heading),
    ("h5", Tag::Heading), ("h6", Tag::Heading), ("b", Tag::Strip), ("i", Tag::Strip), ("u", Tag::Strip), ("s", Tag::Strip), ("em", Tag::Strip),
    ("strong", Tag::Strip), ("small", Tag::Strip), ("big", Tag::Strip), ("sub", Tag::Strip), ("sup", Tag::Strip), ("span", Tag::Strip),
    ("font", Tag::Strip), ("code", Tag::Strip), ("kbd", Tag::Strip), ("var", Tag::Strip), ("samp", Tag::Strip), ("tt", Tag::Strip),
    ("cite", Tag::Strip), ("abbr", Tag::Strip), ("del", Tag::Strip), ("ins", Tag::Strip), ("q", Tag::Strip), ("strike", Tag::Strip),
    ("noinclude", Tag::Strip), ("onlyinclude", Tag::Strip), ("bdi", Tag::Strip),
];

#[rustfmt::skip]
fn is_file_namespace(name: &str) -> bool {
    const NAMES: [&str; 17] = [
        "file", "image", "media", "datei", "bild", "fichier", "archivo", "imagen", "ficheiro", "imagem", "arquivo", "plik", "grafika", "immagine",
        "bestand", "afbeelding", "файл",
    ];
    NAMES.contains(&name.trim().to_lowercase().as_str())
}

fn is_category_namespace(name: &str) -> bool {
    const NAMES: [&str; 9] =
        ["category", "kategorie", "catégorie", "categoría", "categoria", "kategoria", "categorie", "категория", "kategori"];
    NAMES.contains(&name.trim().to_lowercase().as_str())
}

/// Whether a link without label goes to the page in another language, which is no part of the text.
fn is_language(prefix: &str) -> bool {
    const CODES: [&str; 40] = [
        "en", "de", "fr", "es", "it", "pt", "pl", "nl", "ru", "ja", "zh", "sv", "uk", "vi", "ar", "ko", "ca", "cs", "fi", "hu", "no", "tr",
        "ro", "da", "he", "id", "fa", "el", "bg", "sk", "hr", "sr", "sl", "et", "lt", "lv", "th", "hi", "eu", "simple",
    ];
    CODES.contains(&prefix.trim())
}

/// Whether what stands last in an image link says how to show it, and is no caption.
fn is_image_option(text: &str) -> bool {
    const OPTIONS: [&str; 22] = [
        "thumb",
        "thumbnail",
        "frame",
        "frameless",
        "border",
        "left",
        "right",
        "center",
        "none",
        "upright",
        "baseline",
        "middle",
        "mini",
        "hochkant",
        "links",
        "rechts",
        "vignette",
        "gauche",
        "droite",
        "miniaturadeimagen",
        "miniatura",
        "izquierda",
    ];
    let text = text.trim();
    let size =
        text.strip_suffix("px").is_some_and(|size| !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit() || byte == b'x'));
    let named = text
        .split_once('=')
        .is_some_and(|(key, _)| matches!(key.trim(), "alt" | "link" | "upright" | "lang" | "page" | "class" | "hochkant"));
    text.is_empty() || size || named || OPTIONS.contains(&text.to_ascii_lowercase().as_str())
}

// ---- Templates ----

/// The arguments of a template, in the output of the first pass.
struct Arguments<'a> {
    body: &'a str,
    base: usize,
    pipes: &'a [usize],
}

impl<'a> Arguments<'a> {
    /// Iterates over the arguments behind the name.
    fn all(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.pipes.iter().enumerate().map(|(index, &pipe)| {
            let end = self.pipes.get(index + 1).map_or(self.body.len(), |&next| next - self.base);
            self.body[pipe - self.base + 1..end].trim()
        })
    }

    /// Returns the unnamed argument of that number, from 1.
    fn unnamed(&self, number: usize) -> Option<&'a str> {
        let explicit = ["1=", "2=", "3=", "4=", "5="].get(number - 1)?;
        let plain = self.all().filter(|argument| !is_named(argument)).nth(number - 1);
        plain.or_else(|| self.all().find_map(|argument| argument.strip_prefix(explicit))).map(str::trim)
    }

    fn named(&self, key: &str) -> Option<&'a str> {
        self.all().find_map(|argument| argument.split_once('=').filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim()))
    }
}

fn is_named(argument: &str) -> bool {
    argument.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty() && key.len() <= 24 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' '))
    })
}

/// Renders the templates that hold text of the sentence around them; `None` for all others.
fn template(body: &str, base: usize, pipes: &[usize]) -> Option<String> {
    let name = pipes.first().map_or(body, |&pipe| &body[..pipe - base]).trim();
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let name = name.to_lowercase().replace('_', " ");
    let arguments = Arguments { body, base, pipes };
    let first = || arguments.unnamed(1).map(str::to_owned);
    match name.as_str() {
        "!" => Some("|".into()),
        "=" => Some("=".into()),
        "'" => Some("'".into()),
        "'s" => Some("'s".into()),
        "snd" | "spaced ndash" | "spnd" | "spndash" | "spaced en dash" => Some(" – ".into()),
        "ndash" | "en dash" | "–" => Some("–".into()),
        "mdash" | "em dash" | "emdash" | "—" => Some("—".into()),
        "nbsp" | "spaces" | "sp" => Some(" ".into()),
        "·" | "•" | "middot" | "bull" | "dot" => Some(" · ".into()),
        "pi" => Some("π".into()),
        "mu" | "micro" => Some("μ".into()),
        "±" | "pm" | "plusminus" => Some("±".into()),
        "nowrap" | "nobr" | "nobreak" | "small" | "smaller" | "big" | "larger" | "abbr" | "tooltip" | "mvar" | "math" | "var" | "sub"
        | "sup" | "strong" | "em" | "bold" | "italic" | "nobold" | "noitalic" | "visible anchor" | "vanchor" | "gene" | "chem2" | "ce"
        | "sic" | "flag" | "ill" | "interlanguage link" | "as written" | "not a typo" | "proper name" | "midsize" | "overline"
        | "underline" | "mono" | "code" | "samp" | "kbd" | "varserif" | "script" | "linktext" | "longitem" | "keypress" | "pagelist"
        | "formatnum" | "main article text" => first(),
        "lang" | "transl" | "transliteration" | "resize" | "font color" | "color" | "colored text" | "tooltip2" | "wikt-lang" | "langx"
        | "rtl-lang" => arguments.unnamed(2).or(arguments.unnamed(1)).map(str::to_owned),
        name if name.starts_with("lang-") => first(),
        name if name.starts_with("formatnum:") => Some(name["formatnum:".len()..].to_owned()),
        "chem" => Some(arguments.all().collect()),
        "frac" | "sfrac" | "fraction" | "tfrac" => fraction(&arguments),
        "val" => quantity(&arguments),
        "convert" | "cvt" => conversion(&arguments),
        "e" => first().map(|exponent| format!("×10^{exponent}")),
        "10^" => first().map(|exponent| format!("10^{exponent}")),
        "as of" => first().map(|year| format!("As of {year}")),
        "circa" | "c." => Some(first().map_or_else(|| "c.".into(), |year| format!("c. {year}"))),
        "quote" | "blockquote" | "cquote" | "quotation" | "quote box" => {
            let words = arguments.unnamed(1).or(arguments.named("text")).or(arguments.named("quote"))?;
            Some(format!("\n\n{words}\n\n"))
        }
        "term" => first().map(|term| format!("\n\n{term}\n")),
        "defn" => first().map(|definition| format!("\n\n{definition}\n\n")),
        "plainlist" | "flatlist" => first().map(|list| format!("\n{list}\n")),
        "unbulleted list" | "ubl" | "bulleted list" | "blist" => {
            Some(arguments.all().filter(|argument| !is_named(argument)).fold("\n".to_owned(), |list, item| list + "* " + item + "\n"))
        }
        "hlist" => Some(arguments.all().filter(|argument| !is_named(argument)).collect::<Vec<_>>().join(", ")),
        _ => None,
    }
}

/// `{{frac|1|2}}` is 1/2, `{{frac|1|1|2}}` is 1 1/2, `{{frac|2}}` is 1/2.
fn fraction(arguments: &Arguments<'_>) -> Option<String> {
    Some(match (arguments.unnamed(1)?, arguments.unnamed(2), arguments.unnamed(3)) {
        (whole, Some(numerator), Some(denominator)) => format!("{whole} {numerator}/{denominator}"),
        (numerator, Some(denominator), None) => format!("{numerator}/{denominator}"),
        (denominator, None, _) => format!("1/{denominator}"),
    })
}

/// `{{val|5.0|e=-3|u=mg}}` is 5.0×10^-3 mg; a second number is the uncertainty.
fn quantity(arguments: &Arguments<'_>) -> Option<String> {
    let mut text = arguments.unnamed(1).unwrap_or_default().to_owned();
    if let Some(uncertainty) = arguments.unnamed(2) {
        text = text + "±" + uncertainty;
    }
    if let Some(exponent) = arguments.named("e") {
        text = text + "×10^" + exponent;
    }
    if let Some(unit) = arguments.named("u").or(arguments.named("ul")) {
        text = text + if unit.starts_with('%') || unit == "°" { "" } else { " " } + unit;
    }
    (!text.is_empty()).then_some(text)
}

/// `{{convert|10|to|20|kg|lb}}` is 10 to 20 kg: the quantity as the author gave it.
fn conversion(arguments: &Arguments<'_>) -> Option<String> {
    let mut text = String::new();
    let mut unnamed = arguments.all().filter(|argument| !is_named(argument));
    let mut number = unnamed.next()?;
    loop {
        text.push_str(number);
        let next = unnamed.next()?;
        let joint = match next {
            "to" | "and" | "or" | "by" | "x" | "×" | "to about" => format!(" {next} "),
            "-" | "–" => "–".to_owned(),
            "+/-" | "±" => "±".to_owned(),
            unit => {
                let unit = match unit {
                    "C" => "°C",
                    "F" => "°F",
                    "sqkm" | "km2" => "km²",
                    "m2" => "m²",
                    "cm2" => "cm²",
                    "m3" => "m³",
                    "cm3" => "cm³",
                    "impgal" | "usgal" => "gallons",
                    "in" => "inches",
                    unit => unit,
                };
                return Some(text + " " + unit);
            }
        };
        text.push_str(&joint);
        number = unnamed.next()?;
    }
}

// ---- Second pass: lines ----

/// A table that is open: whether it is shown, and whether its row has no cell yet.
#[derive(Debug, Clone, Copy)]
struct Table {
    shown: bool,
    row_start: bool,
}

struct Lines<'a> {
    settings: &'a Settings,
    text: TextBuilder,
    list: bool,
    tables: Vec<Table>,
    /// The level of the section that is left out.
    dropped: Option<u32>,
    /// Headings whose sections have no text so far.
    pending: Vec<(u32, String)>,
}

impl Lines<'_> {
    fn line(&mut self, line: &str) {
        let trimmed = line.trim();
        if let Some((level, title)) = heading(trimmed) {
            return self.heading(level, title);
        }
        if self.dropped.is_some() {
            return;
        }
        if trimmed.starts_with("{|") || (trimmed.starts_with(':') && trimmed.trim_start_matches(':').trim_start().starts_with("{|")) {
            return self.begin_table(trimmed);
        }
        if let Some(table) = self.tables.last() {
            return self.table_line(trimmed, table.shown);
        }
        match trimmed.bytes().next() {
            None => self.end_blocks(),
            Some(b'*' | b'#' | b':' | b';') => self.item(trimmed),
            Some(b'-') if trimmed.starts_with("----") => self.end_blocks(),
            _ => {
                if self.list {
                    self.end_blocks();
                }
                self.words(line);
                self.text.space();
            }
        }
    }

    /// Ends the list or paragraph.
    fn end_blocks(&mut self) {
        if std::mem::take(&mut self.list) {
            self.text.end_list();
        }
        self.text.paragraph();
    }

    fn heading(&mut self, level: u32, title: &str) {
        while let Some(table) = self.tables.pop() {
            if table.shown {
                self.text.end_table();
            }
        }
        self.end_blocks();
        // Only the title of a section with text is written.
        while self.pending.last().is_some_and(|(pending, _)| *pending >= level) {
            self.pending.pop();
        }
        if self.dropped.is_some_and(|dropped| level > dropped) {
            return;
        }
        let title = title.replace([LITERAL, BREAK], "");
        let title = title.trim();
        self.dropped = self.settings.drop_sections.contains(&title.to_lowercase()).then_some(level);
        if self.dropped.is_none() && !title.is_empty() {
            self.pending.push((level, title.to_owned()));
        }
    }

    /// Appends the words of a line, after the headings that are due.
    fn words(&mut self, words: &str) {
        if words.trim_matches(|c: char| c.is_whitespace() || c == LITERAL || c == BREAK).is_empty() {
            return;
        }
        self.flush_headings();
        if words.contains(BREAK) {
            let words = words.trim_start_matches(LITERAL).replace(LITERAL, "");
            return self.text.preformatted(&words.replace(BREAK, "\n"));
        }
        for part in words.split(LITERAL) {
            self.text.inline(part);
        }
    }

    fn item(&mut self, line: &str) {
        let marks = line.bytes().take_while(|byte| matches!(byte, b'*' | b'#' | b':' | b';')).count();
        let (marks, words) = line.split_at(marks);
        let words = words.trim();
        if words.is_empty() {
            return;
        }
        if marks.ends_with(['*', '#']) {
            self.open_list();
            self.text.item();
            self.words(words);
        } else if marks.ends_with(';') {
            self.end_blocks();
            self.words(words);
            self.text.line();
        } else {
            // An indented line; inside a list it belongs to the item.
            self.text.line();
            self.words(words);
            self.text.line();
        }
    }

    fn open_list(&mut self) {
        if !self.list {
            self.flush_headings();
            self.text.begin_list();
            self.list = true;
        }
    }

    fn flush_headings(&mut self) {
        for (level, title) in self.pending.drain(..) {
            // The page's own sections are of level 2.
            self.text.heading(level.saturating_sub(1).max(1), &title);
        }
    }

    fn begin_table(&mut self, line: &str) {
        let navigation =
            ["navbox", "metadata", "ambox", "sidebar", "vertical-navbox", "toccolours", "noprint"].iter().any(|class| line.contains(class));
        let shown = self.settings.tables && !navigation && self.tables.iter().all(|table| table.shown);
        if self.tables.is_empty() {
            self.end_blocks();
        }
        // The frames of a page can be stacked at will; deeper tables are flattened into the one around.
        if self.tables.len() < FRAMES_MAX {
            self.tables.push(Table { shown, row_start: true });
            if shown {
                self.flush_headings();
                self.text.begin_table();
            }
        }
    }

    fn table_line(&mut self, line: &str, shown: bool) {
        if let Some(rest) = line.strip_prefix("|}") {
            self.tables.pop();
            if shown {
                self.text.end_table();
            }
            if self.tables.is_empty() {
                self.end_blocks();
                self.words(rest.trim());
            }
            return;
        }
        if !shown {
            return;
        }
        if line.starts_with("|-") {
            self.row();
        } else if let Some(caption) = line.strip_prefix("|+") {
            self.row();
            self.words(content(caption));
            self.row();
        } else if let Some(cells) = line.strip_prefix('!') {
            for cell in cells.split("!!").flat_map(|cells| cells.split("||")) {
                self.cell(content(cell));
            }
        } else if let Some(cells) = line.strip_prefix('|') {
            for cell in cells.split("||") {
                self.cell(content(cell));
            }
        } else {
            self.text.space();
            self.words(line.trim_start_matches(['*', '#', ':', ';']));
        }
    }
}

impl Lines<'_> {
    fn row(&mut self) {
        self.text.row();
        if let Some(table) = self.tables.last_mut() {
            table.row_start = true;
        }
    }

    fn cell(&mut self, words: &str) {
        if let Some(table) = self.tables.last_mut()
            && !std::mem::replace(&mut table.row_start, false)
        {
            self.text.cell();
        }
        self.words(words);
    }
}

/// Takes the attributes of a cell off: `style="x" | content`.
fn content(cell: &str) -> &str {
    match cell.split_once('|') {
        Some((attributes, content)) if attributes.contains('=') || attributes.trim().is_empty() => content.trim(),
        _ => cell.trim(),
    }
}

/// Reads `== Title ==`; the level is the lesser number of marks.
fn heading(line: &str) -> Option<(u32, &str)> {
    let before = line.bytes().take_while(|&byte| byte == b'=').count();
    if before == 0 || line.len() <= 2 * before.min(1) {
        return None;
    }
    let after = line.bytes().rev().take_while(|&byte| byte == b'=').count();
    let level = before.min(after).min(6);
    if level == 0 || line.len() <= 2 * level {
        return None;
    }
    Some((level as u32, line[level..line.len() - level].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn text(wikitext: &str) -> String {
        let mut document = Document::default();
        render(wikitext, &Settings::default(), &mut document);
        document.text
    }

    #[test]
    fn inline_markup() {
        let cases = [
            ("'''Asthma''' is ''bad'' and '''''worse''''', ''''quoted''''; O'Neill", "Asthma is bad and worse, 'quoted'; O'Neill"),
            ("a [[lung]]s [[Bronchus|airway]] [[:Category:X]] [[Foo (bar)|]] [[a#b]]", "a lungs airway Category:X Foo a#b"),
            ("[[Category:Asthma]][[de:Asthma]]x[[File:A.png|thumb|200px]]y", "xy"),
            ("see [https://a.b label here] and [https://a.b] and https://c.d [1]", "see label here and and https://c.d [1]"),
            ("x<ref name=\"a\">{{cite|1|[[b]]}}</ref> y<ref name=a /> z", "x y z"),
            ("{{Infobox|a={{b|c}}|d=[[e|f]]}}Text {{citation needed|date=May}}", "Text"),
            ("{{convert|10|kg|lb}}, {{convert|2|to|3|C|F}}, {{cvt|5|-|6|mm|abbr=on}}", "10 kg, 2 to 3 °C, 5–6 mm"),
            (
                "{{nowrap|10 mg}} {{lang|la|in vivo}} {{lang-de|Herz}} {{chem|H|2|O}} {{frac|1|1|2}} {{val|5.0|e=-3|u=mg}}",
                "10 mg in vivo Herz H2O 1 1/2 5.0×10^-3 mg",
            ),
            ("{{nowrap|a {{nowrap|b [[c|d]]}} e}} {{abbr|BP|blood pressure}}", "a b d e BP"),
            ("a<!-- b --> &lt;b&gt; &amp;lt; &nbsp;&alpha;&#946; &bogus; A&B", "a <b> &lt; αβ &bogus; A&B"),
            ("p < 0.05 and <unknown>, H<sub>2</sub>O<br/>next", "p < 0.05 and <unknown>, H2O next"),
            ("<nowiki>[[x]] ''y''</nowiki> <math>\\frac{a}{b}</math>", "[[x]] ''y'' \\frac{a}{b}"),
            ("__NOTOC__a_b __x", "a_b __x"),
            ("{{{1|default}}}x", "x"),
            ("open {{ brace and [[ link and ]] }} ok", "open ok"),
            ("never {{closed here", "never {{closed here"),
            ("never [[closed\nhere", "never [[closed here"),
            ("<ref>never closed", "never closed"),
        ];
        for (wikitext, wanted) in cases {
            assert_eq!(text(wikitext), wanted, "{wikitext}");
        }
    }

    #[test]
    fn blocks() {
        let wikitext = "Lead one\nline two.\n\n[[File:A.png|thumb|The ''caption'' of [[it]].]]\n== Signs ==\n* cough\n* wheeze\n** at night\n# first\n:indented\n\
            ;Term: words\nPlain.\n=== Empty ===\n== History ==\n<pre>a  b\n c</pre>\n----\nEnd.\n== See also ==\n* [[X]]\n=== Sub ===\ngone\n== After ==\n&#42; star";
        let mut document = Document::default();
        render(wikitext, &Settings::default(), &mut document);
        assert_eq!(
            document.text,
            "Lead one line two.\n\nThe caption of it.\n\nSigns\n\n- cough\n- wheeze\n- at night\n- first\nindented\n\nTerm: words\nPlain.\n\nHistory\n\n\
             a  b\n c\n\nEnd.\n\nAfter\n\n* star"
        );
        let sections: Vec<_> = document.sections.iter().map(|section| (section.title.as_str(), section.level)).collect();
        assert_eq!(sections, [("Signs", 1), ("History", 1), ("After", 1)]);
    }

    #[test]
    fn tables() {
        let wikitext = "{| class=\"wikitable\"\n|+ Doses\n! Drug !! style=\"x\" | Dose\n|-\n| [[A|Aspirin]] || {{nowrap|100 mg}}\n|-\n| B\n| 5 mg\nmore\n|}\nAfter.\n\
            {| class=\"navbox\"\n| gone\n|}";
        assert_eq!(text(wikitext), "Doses\nDrug | Dose\nAspirin | 100 mg\nB | 5 mg more\n\nAfter.");
        let mut document = Document::default();
        render(wikitext, &Settings { tables: false, ..Settings::default() }, &mut document);
        assert_eq!(document.text, "After.");
        assert_eq!(text("{|\n| a\n== H ==\nb"), "a\n\nH\n\nb");
    }

    #[test]
    fn disambiguations() {
        assert!(is_disambiguation("'''X''' may be:\n* a\n{{Disambiguation|geo}}"));
        assert!(!is_disambiguation("'''X''' is a drug."));
    }

    /// Twenty times the size of what would be quadratic takes far less than four hundred times as long.
    #[test]
    fn hostile_pages_are_linear() {
        let units = [
            "{{",
            "{{a|",
            "[[",
            "[[a|",
            "[http://",
            "<ref>",
            "<b",
            "<!--",
            "}}",
            "{{{",
            "{|\n",
            "'",
            "|",
            "=",
            "{{nowrap|",
            "<ref></x>",
            "&a",
            "*",
            "==a==\n",
            "[[File:",
            "{{frac|1|",
            "{{ubl|",
            "[[a|b]]",
            "{{nowrap|a}}",
            "<pre>",
            "<h2>",
            "\n;",
            "{{ubl|{{frac|1|",
            "<p>",
        ];
        for unit in units {
            let time = |bytes: usize| {
                let page = unit.repeat(bytes / unit.len());
                let start = Instant::now();
                let _ = text(&page);
                start.elapsed()
            };
            let (small, large) = (time(100_000), time(2_000_000));
            assert!(large < small.max(Duration::from_millis(5)) * 100, "{unit:?}: {small:?}, {large:?}");
        }
    }

    #[test]
    fn fifty_megabytes_of_braces() {
        let start = Instant::now();
        assert_eq!(text(&"{{".repeat(25_000_000)).len(), 50_000_000);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn any_page_is_read(tokens in prop::collection::vec(prop::sample::select(vec![
            "{{", "}}", "{{{", "}}}", "[[", "]]", "[", "]", "|", "||", "\n", "\n|-\n", "{|", "|}", "!", "==", "=", "*", "#", ":", ";", "''", "'''", "<ref>",
            "</ref>", "<ref/>", "<nowiki>", "</nowiki>", "<pre>", "</pre>", "<!--", "-->", "<", ">", "&amp;", "&#1;", "&", "File:", "http://", "a", "é ", "\u{1}",
            "\u{2}", "nowrap|", "convert|", "frac|", "chem|", "val|", "1=", "<h2>", "</h2>", "<li>", "__X__", "\u{a0}", "plainlist|", "quote|",
        ]), 0..60)) {
            let mut document = Document::default();
            render(&tokens.concat(), &Settings::default(), &mut document);
            prop_assert!(!document.text.contains([LITERAL, BREAK]));
            prop_assert!(!document.text.contains("\n\n\n") && !document.text.contains(" \n"));
            for section in &document.sections {
                prop_assert!(document.text[section.start..section.end].starts_with(section.title.as_str()));
            }
        }
    }
}
