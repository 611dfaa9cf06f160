//! A formula, once: its TeX where it has any, else its MathML on one line, else its text.

use crate::Reject;
use crate::xml::{Element, Event, Reader};

/// Reads formulas, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Formula {
    tex: String,
    math: String,
    plain: String,
    label: String,
    open: Vec<Open>,
}

/// An open element of MathML.
#[derive(Debug, Clone, Copy)]
struct Open {
    script: Script,
    /// Where its text begins in `math`.
    start: usize,
    children: usize,
}

/// What stands between an element's children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Row,
    Token,
    Fraction,
    Sub,
    Super,
    SubSuper,
    Root,
    /// A table's row or cell.
    TableRow,
    Cell,
    Fenced,
}

/// Where the text being read goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Plain,
    Tex,
    Math,
    Label,
}

impl Formula {
    /// Returns the formula read last.
    pub fn text(&self) -> &str {
        let tex = bare(&self.tex);
        [tex, self.math.trim(), self.plain.trim()].into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// Returns the formula's number, such as `(3)`.
    pub fn label(&self) -> &str {
        self.label.trim()
    }

    /// Reads `element`, whose `Start` came last, to its end.
    pub fn read<'a>(&mut self, reader: &mut Reader<'a>, element: &Element<'a>) -> Result<(), Reject> {
        for text in [&mut self.tex, &mut self.math, &mut self.plain, &mut self.label] {
            text.clear();
        }
        self.open.clear();
        let outside = reader.depth().saturating_sub(1);
        let mut part = Part::Plain;
        let mut part_depth = 0;
        self.enter(reader, element, &mut part, &mut part_depth)?;
        while reader.depth() > outside {
            match reader.next()? {
                Event::Start(element) => self.enter(reader, &element, &mut part, &mut part_depth)?,
                Event::Text(text) => self.text_of(part, &text),
                Event::End(_) => {
                    if part == Part::Math {
                        self.leave();
                    }
                    if part != Part::Plain && reader.depth() < part_depth {
                        part = Part::Plain;
                    }
                }
                Event::Eof => break,
            }
        }
        Ok(())
    }

    fn enter<'a>(&mut self, reader: &mut Reader<'a>, element: &Element<'a>, part: &mut Part, part_depth: &mut usize) -> Result<(), Reject> {
        let begins = match element.name() {
            b"graphic" | b"inline-graphic" | b"mphantom" | b"alt-text" | b"long-desc" | b"object-id" | b"annotation-xml" => {
                return reader.skip_element();
            }
            b"annotation" => {
                let encoding = element.attribute(b"encoding").unwrap_or_default();
                if !encoding.to_ascii_lowercase().contains("tex") || !self.tex.is_empty() {
                    return reader.skip_element();
                }
                self.annotation(reader)?;
                return Ok(());
            }
            // A second rendering says the same again.
            b"tex-math" if !self.tex.is_empty() => return reader.skip_element(),
            b"math" if *part != Part::Math && !self.math.is_empty() => return reader.skip_element(),
            b"tex-math" => Some(Part::Tex),
            b"math" => Some(Part::Math),
            b"label" => Some(Part::Label),
            _ => None,
        };
        if let Some(begins) = begins.filter(|_| *part == Part::Plain) {
            (*part, *part_depth) = (begins, reader.depth());
        }
        if *part == Part::Math {
            self.open_math(element);
        }
        Ok(())
    }

    /// Takes the TeX that stands beside MathML.
    fn annotation(&mut self, reader: &mut Reader<'_>) -> Result<(), Reject> {
        let outside = reader.depth().saturating_sub(1);
        while reader.depth() > outside {
            match reader.next()? {
                Event::Text(text) => self.tex.push_str(&text),
                Event::Eof => break,
                Event::Start(_) | Event::End(_) => {}
            }
        }
        Ok(())
    }

    fn text_of(&mut self, part: Part, text: &str) {
        match part {
            Part::Tex => self.tex.push_str(text),
            Part::Label => self.label.push_str(text),
            Part::Plain => self.plain.push_str(text),
            Part::Math => {
                if self.open.last().is_some_and(|open| open.script == Script::Token) {
                    // U+2061 to U+2064 are operators that nobody sees.
                    self.math.extend(text.chars().filter(|character| !matches!(character, '\u{2061}'..='\u{2064}')));
                }
            }
        }
    }

    fn open_math(&mut self, element: &Element<'_>) {
        if let Some(parent) = self.open.last_mut() {
            let separator = match (parent.script, parent.children) {
                (_, 0) => "",
                (Script::Fraction, _) => "/",
                (Script::Sub, _) | (Script::SubSuper, 1) => "_",
                (Script::Super | Script::SubSuper, _) => "^",
                (Script::TableRow, _) => "; ",
                (Script::Cell | Script::Root, _) => " ",
                (Script::Fenced, _) => ",",
                (Script::Row | Script::Token, _) => "",
            };
            parent.children += 1;
            self.math.push_str(separator);
        }
        let script = match element.name() {
            b"mi" | b"mn" | b"mo" | b"mtext" | b"ms" => Script::Token,
            b"mfrac" => Script::Fraction,
            b"msub" | b"munder" => Script::Sub,
            b"msup" | b"mover" => Script::Super,
            b"msubsup" | b"munderover" => Script::SubSuper,
            b"msqrt" | b"mroot" => Script::Root,
            b"mtable" => Script::TableRow,
            b"mtr" | b"mlabeledtr" => Script::Cell,
            b"mfenced" => Script::Fenced,
            _ => Script::Row,
        };
        match element.name() {
            b"mspace" => self.math.push(' '),
            b"msqrt" | b"mroot" => self.math.push_str("√("),
            b"mfenced" => self.math.push_str(element.attribute(b"open").as_deref().unwrap_or("(")),
            _ => {}
        }
        self.open.push(Open { script, start: self.math.len(), children: 0 });
    }

    fn leave(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let parent = self.open.last().map_or(Script::Row, |parent| parent.script);
        match open.script {
            Script::Fenced | Script::Root => self.math.push(')'),
            // Parentheses keep `(a+b)/c` from reading as `a+b/c`.
            Script::Row | Script::Fraction if matches!(parent, Script::Fraction | Script::Sub | Script::Super | Script::SubSuper) => {
                let text = self.math.get(open.start..).unwrap_or_default();
                let compound =
                    text.chars().any(|character| !character.is_alphanumeric() && !matches!(character, '.' | ',' | '∑' | '∏' | '∫'));
                if compound {
                    self.math.insert(open.start, '(');
                    self.math.push(')');
                }
            }
            _ => {}
        }
    }
}

/// Cuts the document around TeX and the signs that open and close mathematics.
fn bare(tex: &str) -> &str {
    let tex = tex.split_once("\\begin{document}").map_or(tex, |(_, rest)| rest);
    let tex = tex.split_once("\\end{document}").map_or(tex, |(formula, _)| formula).trim();
    for (open, close) in [("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)")] {
        if let Some(inner) = tex.strip_prefix(open).and_then(|rest| rest.strip_suffix(close)) {
            return inner.trim();
        }
    }
    tex
}
