//! The first pass: what nests. Links become their labels, templates their words, tags what they mean to the lines.

use super::template::template;
use super::{BREAK, FRAMES_MAX, LITERAL, Settings};
use crate::entities;
use memchr::{memchr, memmem};

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

/// Resolves links, templates, tags and entities; what begins a line stays for the second pass.
pub(super) fn resolve(text: &str, settings: &Settings) -> String {
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
                    self.literal(&inner.trim_matches('\n').replace('\n', BREAK.encode_utf8(&mut [0; 4])));
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
