//! Writes an article as JATS XML, with some of the habits that real files have.

use super::article::{Article, Block, Kind, Section};
use std::fmt::Write;

/// What the front matter says beside the article itself.
#[derive(Debug, Clone)]
pub struct Front<'a> {
    pub doi: &'a str,
    pub number: u64,
    pub license: License,
    pub habit: Habit,
}

/// How the licence is stated, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum License {
    /// A link to CC BY 4.0.
    AttributionLink,
    /// CC BY 4.0 in words only.
    AttributionWords,
    /// A link to CC0 1.0.
    PublicDomain,
    /// A link to CC BY-NC 4.0.
    NonCommercial,
    /// None.
    Missing,
}

/// What real files do beside the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    Plain,
    /// A byte order mark and CRLF line ends.
    CarriageReturns,
    /// Named entities without the DTD that declares them.
    NamedEntities,
    /// A prefix that no declaration binds.
    UnboundPrefix,
    /// No XML declaration, no DOCTYPE, default language left out.
    Bare,
}

/// The article as XML.
pub fn write(article: &Article, front: &Front<'_>) -> String {
    let mut out = String::with_capacity(24 << 10);
    if front.habit != Habit::Bare {
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        out.push_str("<!DOCTYPE article PUBLIC \"-//NLM//DTD JATS (Z39.96) Journal Archiving and Interchange DTD v1.2 20190208//EN\" ");
        out.push_str("\"JATS-archivearticle1.dtd\">\n");
    }
    let kind = match article.kind {
        Kind::Research => "research-article",
        Kind::CaseReport => "case-report",
        Kind::Letter => "letter",
    };
    let language = if front.habit == Habit::Bare { "" } else { " xml:lang=\"en\"" };
    put(&mut out, format_args!("<article article-type=\"{kind}\"{language} xmlns:xlink=\"http://www.w3.org/1999/xlink\">\n<front>\n"));
    write_journal(&mut out, article);
    write_meta(&mut out, article, front);
    out.push_str("</front>\n<body>\n");
    for (index, section) in article.body.iter().enumerate() {
        write_section(&mut out, section, &format!("s{}", index + 1));
    }
    out.push_str("</body>\n<back>\n<ref-list>\n<title>References</title>\n");
    for (index, reference) in article.references.iter().enumerate() {
        let number = index + 1;
        put(&mut out, format_args!("<ref id=\"B{number}\"><label>{number}</label><mixed-citation><article-title>"));
        escape(&mut out, reference);
        out.push_str("</article-title></mixed-citation></ref>\n");
    }
    out.push_str("</ref-list>\n</back>\n</article>\n");
    match front.habit {
        Habit::CarriageReturns => format!("\u{feff}{}", out.replace('\n', "\r\n")),
        Habit::NamedEntities => out.replace('±', "&plusmn;").replace('µ', "&micro;").replace('é', "&eacute;").replace('–', "&ndash;"),
        _ => out,
    }
}

fn write_journal(out: &mut String, article: &Article) {
    out.push_str("<journal-meta>\n<journal-title-group><journal-title>");
    escape(out, &article.journal);
    out.push_str("</journal-title></journal-title-group>\n<issn pub-type=\"epub\">0000-0000</issn>\n");
    out.push_str("<publisher><publisher-name>Sample Press</publisher-name></publisher>\n</journal-meta>\n");
}

fn write_meta(out: &mut String, article: &Article, front: &Front<'_>) {
    out.push_str("<article-meta>\n");
    put(out, format_args!("<article-id pub-id-type=\"publisher-id\">sample-{}</article-id>\n", front.number));
    put(out, format_args!("<article-id pub-id-type=\"doi\">{}</article-id>\n", front.doi));
    out.push_str("<title-group><article-title>");
    escape(out, &article.title);
    out.push_str("</article-title></title-group>\n<contrib-group>\n");
    for (surname, given) in &article.authors {
        put(
            out,
            format_args!("<contrib contrib-type=\"author\"><name><surname>{surname}</surname><given-names>{given}</given-names></name>"),
        );
        out.push_str("</contrib>\n");
    }
    let (year, month, day) = article.published;
    put(
        out,
        format_args!(
            "</contrib-group>\n<pub-date pub-type=\"epub\"><day>{day}</day><month>{month}</month><year>{year}</year></pub-date>\n"
        ),
    );
    write_license(out, front);
    if !article.abstract_sections.is_empty() {
        out.push_str("<abstract>\n");
        for section in &article.abstract_sections {
            if section.title.is_empty() { write_blocks(out, section) } else { write_section(out, section, "") }
        }
        out.push_str("</abstract>\n");
    }
    out.push_str("<kwd-group>");
    for keyword in &article.keywords {
        out.push_str("<kwd>");
        escape(out, keyword);
        out.push_str("</kwd>");
    }
    out.push_str("</kwd-group>\n</article-meta>\n");
}

fn write_license(out: &mut String, front: &Front<'_>) {
    let (link, words) = match front.license {
        License::Missing => return,
        License::AttributionLink => ("https://creativecommons.org/licenses/by/4.0/", "This is an open access article."),
        License::AttributionWords => {
            ("", "Distributed under the terms of the Creative Commons Attribution 4.0 International License (CC BY 4.0).")
        }
        License::PublicDomain => ("http://creativecommons.org/publicdomain/zero/1.0/", "Free of all copyright."),
        License::NonCommercial => {
            ("https://creativecommons.org/licenses/by-nc/4.0/", "Reuse is permitted for non-commercial purposes only.")
        }
    };
    out.push_str("<permissions>\n<copyright-statement>© The authors (who do not exist)</copyright-statement>\n<license");
    if !link.is_empty() {
        put(out, format_args!(" license-type=\"open-access\" xlink:href=\"{link}\""));
    }
    out.push('>');
    if front.habit == Habit::UnboundPrefix && !link.is_empty() {
        put(out, format_args!("<ali:license_ref>{link}</ali:license_ref>"));
    }
    put(out, format_args!("<license-p>{words}</license-p></license>\n</permissions>\n"));
}

fn write_section(out: &mut String, section: &Section, id: &str) {
    if id.is_empty() {
        out.push_str("<sec>\n")
    } else {
        put(out, format_args!("<sec id=\"{id}\">\n"))
    }
    if !section.title.is_empty() {
        put(out, format_args!("<title>{}</title>\n", section.title));
    }
    write_blocks(out, section);
    for (index, inner) in section.sections.iter().enumerate() {
        write_section(out, inner, &format!("{id}.{}", index + 1));
    }
    out.push_str("</sec>\n");
}

fn write_blocks(out: &mut String, section: &Section) {
    for block in &section.blocks {
        match block {
            Block::Paragraph(sentences) => {
                out.push_str("<p>");
                for (index, text) in sentences.iter().enumerate() {
                    if index > 0 {
                        out.push(if index % 3 == 0 { '\n' } else { ' ' });
                    }
                    inline(out, text);
                }
                out.push_str("</p>\n");
            }
            Block::List(items) => {
                out.push_str("<list list-type=\"bullet\">\n");
                for text in items {
                    out.push_str("<list-item><p>");
                    inline(out, text);
                    out.push_str("</p></list-item>\n");
                }
                out.push_str("</list>\n");
            }
            Block::Table(number, caption, rows) => write_table(out, *number, caption, rows),
            Block::Figure(number, caption) => {
                put(out, format_args!("<fig id=\"F{number}\"><label>Figure {number}</label><caption><p>"));
                inline(out, caption);
                put(out, format_args!("</p></caption><graphic xlink:href=\"figure-{number}.tif\"/></fig>\n"));
            }
        }
    }
}

fn write_table(out: &mut String, number: u64, caption: &str, rows: &[Vec<String>]) {
    put(out, format_args!("<table-wrap id=\"T{number}\"><label>Table {number}</label><caption><p>"));
    inline(out, caption);
    out.push_str("</p></caption>\n<table frame=\"hsides\">\n");
    for (index, cells) in rows.iter().enumerate() {
        let cell = if index == 0 { "th" } else { "td" };
        out.push_str(if index == 0 { "<thead><tr>" } else { "<tr>" });
        for text in cells {
            put(out, format_args!("<{cell}>"));
            inline(out, text);
            put(out, format_args!("</{cell}>"));
        }
        out.push_str(match index {
            0 => "</tr></thead>\n<tbody>\n",
            _ => "</tr>\n",
        });
    }
    out.push_str("</tbody>\n</table></table-wrap>\n");
}

/// Escaped text in which `[12]` is a citation and the `p` of a p-value is in italics.
fn inline(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(['[', 'p']) {
        let (before, from) = rest.split_at(at);
        escape(out, before);
        let citation = from.strip_prefix('[').and_then(|inner| inner.split_once(']')).filter(|(number, _)| number.parse::<u32>().is_ok());
        if let Some((number, after)) = citation {
            put(out, format_args!("[<xref ref-type=\"bibr\" rid=\"B{number}\">{number}</xref>]"));
            rest = after;
        } else if let (true, Some(after)) = (before.ends_with([' ', '(']), from.strip_prefix("p = ")) {
            out.push_str("<italic>p</italic> = ");
            rest = after;
        } else {
            let (letter, after) = from.split_at(1);
            out.push_str(letter);
            rest = after;
        }
    }
    escape(out, rest);
}

fn escape(out: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\u{2212}' => out.push_str("&#x2212;"),
            _ => out.push(letter),
        }
    }
}

/// Writing to a `String` cannot fail.
fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_text_marks_citations_and_p_values() {
        let mut out = String::new();
        inline(&mut out, "group A>B (hazard; p = 0.03) [12], [2+ oedema] p");
        let wanted = "group A&gt;B (hazard; <italic>p</italic> = 0.03) [<xref ref-type=\"bibr\" rid=\"B12\">12</xref>], [2+ oedema] p";
        assert_eq!(out, wanted);
    }
}
