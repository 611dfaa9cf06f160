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

/// A piece of a line of the usual kind; each word is the next number, so that the text tells which were kept, and in which order.
#[derive(Debug, Clone)]
enum Piece {
    Word,
    Shown(&'static str, &'static str, Vec<Piece>),
    Dropped(&'static str, &'static str, Vec<Piece>),
}

/// A piece of a page.
#[derive(Debug, Clone)]
enum Part {
    Line(&'static str, Vec<Piece>),
    Section(usize, Vec<Piece>),
    Table { shown: bool, rows: Vec<Vec<Vec<Piece>>> },
}

fn piece() -> impl Strategy<Value = Piece> {
    const SHOWN: [(&str, &str); 9] = [
        ("'''", "'''"),
        ("''", "''"),
        ("[[Asthma (disease)#Signs|", "]]"),
        ("{{nowrap|", "}}"),
        ("{{lang|la|", "}}"),
        ("<small>", "</small>"),
        ("<span style=\"color:red\">", "</span>"),
        ("[https://example.org/a?b=c&d ", "]"),
        ("&nbsp;(", "&thinsp;)"),
    ];
    const DROPPED: [(&str, &str); 6] = [
        ("{{cite journal |title=", " |pages=a–b}}"),
        ("<ref name=\"a\">{{cite web|url=https://a.b|title=", "}}</ref>"),
        ("<!-- ", " -->"),
        ("{{Infobox drug\n| name = ", "\n| width = x}}"),
        ("{{Authority control|x=", "{{!}}}}"),
        ("<gallery>A.png|", "</gallery>"),
    ];
    let word = Just(Piece::Word);
    let dropped = (prop::sample::select(DROPPED.to_vec()), 0usize..3)
        .prop_map(|((open, close), words)| Piece::Dropped(open, close, vec![Piece::Word; words]));
    prop_oneof![4 => word, 1 => dropped].prop_recursive(5, 60, 5, |inner| {
        (prop::sample::select(SHOWN.to_vec()), prop::collection::vec(inner, 1..5))
            .prop_filter("links stand in no links", |((open, _), inner)| !open.starts_with('[') || inner.iter().all(is_plain))
            .prop_map(|((open, close), inner)| Piece::Shown(open, close, inner))
    })
}

fn is_plain(piece: &Piece) -> bool {
    match piece {
        Piece::Word => true,
        Piece::Shown(open, _, inner) => !open.starts_with('[') && inner.iter().all(is_plain),
        Piece::Dropped(..) => false,
    }
}

fn part() -> impl Strategy<Value = Part> {
    let line = || prop::collection::vec(piece(), 1..6);
    let table = prop::collection::vec(prop::collection::vec(line(), 1..4), 1..5);
    prop_oneof![
        4 => (prop::sample::select(vec!["", "* ", "** ", "# ", ": ", "; "]), line()).prop_map(|(marks, line)| Part::Line(marks, line)),
        1 => (2usize..5, line()).prop_map(|(level, line)| Part::Section(level, line)),
        1 => (any::<bool>(), table).prop_map(|(shown, rows)| Part::Table { shown, rows }),
    ]
}

struct Written {
    wikitext: String,
    words: usize,
    expected: Vec<usize>,
}

impl Written {
    fn line(&mut self, pieces: &[Piece], shown: bool) {
        for piece in pieces {
            match piece {
                Piece::Word => {
                    self.wikitext += &format!("w{} ", self.words);
                    self.expected.extend(shown.then_some(self.words));
                    self.words += 1;
                }
                Piece::Shown(open, close, inner) | Piece::Dropped(open, close, inner) => {
                    self.wikitext += open;
                    self.line(inner, shown && matches!(piece, Piece::Shown(..)));
                    self.wikitext += close;
                }
            }
        }
    }

    fn part(&mut self, part: &Part) {
        match part {
            Part::Line(marks, line) => {
                self.wikitext += marks;
                self.line(line, true);
                self.wikitext += "\n";
            }
            Part::Section(level, line) => {
                let marks = "=".repeat(*level);
                self.wikitext += &format!("\n{marks} ");
                self.line(&[Piece::Word], true);
                // A section without words would lose its title.
                self.wikitext += &format!(" {marks}\nx ");
                self.line(line, true);
                self.wikitext += "\n";
            }
            Part::Table { shown, rows } => {
                self.wikitext += if *shown { "{| class=\"wikitable sortable\"\n" } else { "{| class=\"navbox\" style=\"x\"\n" };
                for row in rows {
                    self.wikitext += "|- style=\"x\"\n";
                    for cell in row {
                        self.wikitext += "| style=\"text-align:left\" | ";
                        self.line(cell, *shown);
                        self.wikitext += "\n";
                    }
                }
                self.wikitext += "|}\n";
            }
        }
    }
}

proptest! {
    #[test]
    fn shown_words_are_kept_in_order(parts in prop::collection::vec(part(), 1..8)) {
        let mut written = Written { wikitext: String::new(), words: 0, expected: Vec::new() };
        parts.iter().for_each(|part| written.part(part));
        let text = text(&written.wikitext);
        let found: Vec<usize> = text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        prop_assert_eq!(found, written.expected, "{} gave {}", written.wikitext, text);
    }
}
