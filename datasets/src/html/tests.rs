//! Pages as publishers, agencies and hostile hands write them.

use super::*;
use proptest::prelude::*;

fn run(bytes: &[u8], settings: &Settings) -> Result<Document, (&'static str, u64)> {
    let mut out = None;
    let flow = parse(bytes, settings, &mut Document::default(), &mut |found| {
        assert!(out.is_none());
        out = Some(found.cloned().map_err(|reject| (reject.reason, reject.byte)));
        ControlFlow::Continue(())
    });
    assert!(flow.is_continue());
    out.unwrap()
}

fn main(html: &str) -> Document {
    run(html.as_bytes(), &Settings::default()).unwrap()
}

const PROSE: &str = "Measles is a highly contagious viral disease that spreads through droplets. Fever, cough and a rash are its first signs, and the rash appears \
    about two weeks after exposure. Complications include pneumonia and encephalitis, most often in children under five and in adults over twenty.";

#[test]
fn guideline_page() {
    let html = format!(
        r##"<!DOCTYPE html><html lang="en-GB"><head><title>Measles | Agency</title><meta charset="utf-8">
        <meta name="citation_doi" content="10.1000/Measles.1"><meta name="citation_publication_date" content="2019/03/05">
        <meta property="og:site_name" content="Agency"><link rel="canonical" href="https://x.org/measles"><style>p {{ color: red }}</style></head>
        <body class="page"><a class="skip-link" href="#m">Skip to the content of this page, please</a>
        <header><nav><ul><li><a href="/">Home</a><li><a href="/a">About</a></ul></nav></header>
        <div class="cookie-banner"><p>{PROSE} We use cookies.</p></div>
        <main id="m"><h1>Measles</h1><p>{PROSE}</p>
        <h2>Dose &amp; schedule</h2><p>Give&nbsp;0.5&nbsp;mL  <b>sub</b>cutaneously,
        IL<sub>6</sub> &lt; 5.<br>Second line.<br><br>New paragraph.</p>
        <ul><li>First dose: <a href="/mmr">MMR</a> at 12 months</li><li><p>Second dose</p><p>at 4 years</p></ul>
        <table><caption>Doses by age</caption><tr><th>Age</th><th>Dose</th><th>Route</th></tr><tr><td>1</td><td></td><td><p>SC</p></td></tr></table>
        <pre>a  b
   c</pre>
        <aside><p>Key fact: vaccinate children early in life, and do not wait for an outbreak to begin.</p></aside>
        <h2>Related pages</h2><ul><li><a href="/x">Mumps page</a><li><a href="/y">Rubella page</a></ul>
        <script>var x = "<p>no</p>";</script></main>
        <footer><p>Contact us. Text under <a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a>.</p></footer></body></html>"##
    );
    let document = main(&html);
    assert_eq!(document.title.as_deref(), Some("Measles"));
    assert_eq!((document.language.as_deref(), document.published.as_deref()), (Some("en-gb"), Some("2019-03-05")));
    assert_eq!(document.license.as_deref(), Some("https://creativecommons.org/licenses/by/4.0/"));
    assert_eq!(document.identifiers, ["doi:10.1000/measles.1"]);
    assert_eq!(document.metadata["url"], "https://x.org/measles");
    let expected = format!(
        "{PROSE}\n\nDose & schedule\n\nGive 0.5 mL subcutaneously, IL6 < 5.\nSecond line.\n\nNew paragraph.\n\n- First dose: MMR at 12 months\n- Second dose\nat 4 years\n\n\
         Doses by age\n\nAge | Dose | Route\n1 |  | SC\n\na  b\n   c\n\nKey fact: vaccinate children early in life, and do not wait for an outbreak to begin."
    );
    assert_eq!(document.text, expected);
    assert_eq!(
        document.sections.iter().map(|section| (section.title.as_str(), section.level)).collect::<Vec<_>>(),
        [("Dose & schedule", 2)]
    );
}

#[test]
fn page_without_landmarks_is_judged_by_its_blocks() {
    let html = format!(
        "<title>T</title><div><a href=/>Home</a> | <a href=/b>Topics</a> | <a href=/c>News</a></div><div>Last updated</div><h1>Measles</h1><p>{PROSE}</p><p>Short one.</p>\
         <p>{PROSE}</p><h3>See also</h3><div><a href=/d>{PROSE}</a></div><div>Subscribe to our letter</div>"
    );
    assert_eq!(main(&html).text, format!("{PROSE}\n\nShort one.\n\n{PROSE}"));
    let all = run(html.as_bytes(), &Settings { main_content: false, ..Default::default() }).unwrap();
    assert!(all.text.contains("Home | Topics") && all.text.contains("Subscribe"));
}

#[test]
fn powers_keep_their_mark() {
    for (inside, expected) in [
        ("10<sup>60</sup> and 10<sup> &minus;7</sup>", "10^60 and 10 \u{2212}7"),
        ("10<sup>&minus;7</sup>, 10<SUP><i>-3</i></SUP>", "10^\u{2212}7, 10^-3"),
        ("m<sup>2</sup> Ca<sup>2+</sup> 1<sup>st</sup> 5<sup></sup>6 CD4<sup>+</sup>", "m2 Ca2+ 1st 56 CD4+"),
    ] {
        assert_eq!(main(&format!("<main><p>{PROSE}</p><p>{inside}</p></main>")).text, format!("{PROSE}\n\n{expected}"), "{inside}");
    }
}

#[test]
fn layout_tables_and_wrapping_forms() {
    let html = format!("<form><table><tr><td><a href=/>Home</a><td><h2>Measles</h2><p>{PROSE}</p><p>{PROSE}</p></table></form>");
    assert_eq!(main(&html).text, format!("{PROSE}\n\n{PROSE}").replacen(PROSE, &format!("Measles\n\n{PROSE}"), 1));
}

#[test]
fn unclosed_furniture_does_not_swallow_main() {
    let html = format!("<nav><div>menu<main><p>{PROSE}</main>");
    assert_eq!(main(&html).text, PROSE);
    let html = format!("<div><nav>menu</div><p>{PROSE}</p><p>{PROSE}");
    assert_eq!(main(&html).text, format!("{PROSE}\n\n{PROSE}"));
}

#[test]
fn tables_and_lists_are_settings() {
    let html = format!("<main><p>{PROSE}</p><ul><li>item one</li></ul><table><tr><td>a<td>b<tr><td>c<td>d</table></main>");
    let without = run(html.as_bytes(), &Settings { tables: false, lists: false, ..Default::default() }).unwrap();
    assert_eq!(without.text, PROSE);
    assert!(main(&html).text.ends_with("- item one\n\na | b\nc | d"));
}

#[test]
fn encodings() {
    let page = |head: &str, tail: &[u8]| [format!("<html><head>{head}</head><main><p>{PROSE} ").as_bytes(), tail, b"</p></main>"].concat();
    let latin =
        run(&page("<META HTTP-EQUIV=Content-Type CONTENT='text/html; charset=ISO-8859-1'>", b"caf\xe9 \x93q\x94"), &Settings::default())
            .unwrap();
    assert!(latin.text.ends_with("café “q”"));
    assert_eq!(run(&page("<meta charset=utf-8>", b"caf\xe9"), &Settings::default()).unwrap_err().0, "invalid-utf8");
    assert_eq!(run(&page("", b"caf\xe9"), &Settings::default()).unwrap_err().0, "invalid-utf8");
    assert_eq!(run(b"<p></p><script>x</script>", &Settings::default()).unwrap_err(), ("no-text", 0));
}

#[test]
fn hostile_pages_are_linear() {
    let large = 1 << 20;
    let pages = [
        "<".repeat(large),
        "&".repeat(large),
        "<div>".repeat(100_000) + PROSE + &"</span></section>".repeat(100_000),
        "<p>".repeat(large / 3),
        "<table><tr><td>".repeat(large / 15),
        "<a><ul><li>".repeat(large / 11),
        "<nav>".repeat(large / 5) + &"</nav><main>".repeat(1000),
        format!("<div class=\"{}\">{PROSE}", "x".repeat(10 << 20)),
        format!("<div {}>{PROSE}", "a=b ".repeat(large)),
        format!("<main>{PROSE}<div a=\"{}", "x ".repeat(large)),
        "<p>a b</p>".repeat(large / 10),
        "<br>".repeat(large / 4),
        "<!--".repeat(large / 4),
        "<td>x".repeat(large / 5),
        "<table><tr>".to_owned() + &"<td>x".repeat(1 << 16) + "</table>",
    ];
    for page in pages {
        let started = std::time::Instant::now();
        let _ = run(page.as_bytes(), &Settings::default());
        let _ = run(page.as_bytes(), &Settings { main_content: false, ..Default::default() });
        assert!(started.elapsed().as_secs() < 20, "{} took {:?}", &page[..20], started.elapsed());
    }
}

#[test]
fn speed() {
    let page = format!("<main>{}</main>", format!("<div class='a'><p>{PROSE} <a href='/x'>link</a></p></div>\n").repeat(20_000));
    let started = std::time::Instant::now();
    main(&page);
    eprintln!("html: {:.0} MB/s", page.len() as f64 / 1e6 / started.elapsed().as_secs_f64());
}

proptest! {
    #[test]
    fn never_panics(parts in prop::collection::vec(prop::sample::select(vec![
        "<p>", "</p>", "<main>", "</main>", "<article>", "<nav>", "</nav>", "<table>", "<tr>", "<td>", "</td>", "</table>", "<ul>", "<li>", "</ul>", "<h1>", "</h1>", "<h2 hidden>",
        "<a href=x>", "</a>", "<pre>", "</pre>", "<br>", "<form>", "</form>", "<title>", "</title>", "<div role=main>", "</div>", "<script>", "</script>", "&amp;", "&#0;", "&", "<",
        "\n", " ", "text é", PROSE, "\u{0}", "<!--", "-->", "<div class='cookie'>", "<header>", "<span style='display: none'>", "</span>",
    ]), 0..60), main_content: bool) {
        let page: String = parts.concat();
        if let Ok(document) = run(page.as_bytes(), &Settings { main_content, ..Default::default() }) {
            prop_assert!(!document.text.contains("\n\n\n"), "{:?}", document.text);
            prop_assert!(document.text.lines().all(|line| line.trim_end() == line), "{:?}", document.text);
            prop_assert!(document.sections.iter().all(|section| document.text.get(section.start..section.end).is_some()));
        }
    }

    #[test]
    fn never_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = run(&bytes, &Settings::default());
    }
}

/// A piece of a page of the usual kind; each word is the next number, so that the text tells which were kept, and in which order.
#[derive(Debug, Clone)]
enum Piece {
    Word,
    /// Text between an opener and a closer, which may be left out as HTML allows.
    Element(&'static str, &'static str, Vec<Piece>),
    Hidden(&'static str, &'static str, Vec<Piece>),
    Table(Vec<Vec<Vec<Piece>>>),
}

fn piece() -> impl Strategy<Value = Piece> {
    const SHOWN: [(&str, &str); 16] = [
        ("<p>", ""),
        ("<p>", "</p>"),
        ("<div class=\"mw-parser-output\" id='a>b'>", "</div>"),
        ("<ul><li>", "</ul>"),
        ("<ol>\n<li>", "</li></ol>"),
        ("<h2><span class=\"mw-headline\">", "</span></h2>"),
        ("<b>", "</b>"),
        ("<i>", "</i>"),
        ("<a href=\"/wiki/A?b=c&amp;d\" title=\"A\">", "</a>"),
        ("<sup id=cite_ref>", "</sup>"),
        ("<span style=\"white-space:nowrap\">", "</span>"),
        ("<section>", "</section>"),
        ("<dl><dt>", "<dd></dl>"),
        ("<blockquote>&nbsp;", "<br/></blockquote>"),
        ("<figure><img alt=\"x\" src=y><figcaption>", "</figcaption></figure>"),
        ("<article>", "</article>"),
    ];
    const HIDDEN: [(&str, &str); 7] = [
        ("<nav>", "</nav>"),
        ("<div hidden>", "</div>"),
        ("<ul role=\"navigation\" class=navbox>", "</ul>"),
        ("<span class=\"x sr-only\">", "</span>"),
        ("<div style=\"color: red; DISPLAY : none\">", "</div>"),
        ("<select><option>", "</option></select>"),
        ("<svg><g>", "</g></svg>"),
    ];
    let leaf = prop_oneof![
        6 => Just(Piece::Word),
        1 => Just(Piece::Hidden("<script>if (a<b) { \"", "\" }</script>", vec![Piece::Word])),
        1 => Just(Piece::Hidden("<style>p::after { content: '", "' }</style>", vec![Piece::Word])),
        1 => Just(Piece::Hidden("<!-- <p> ", " -->", vec![Piece::Word])),
    ];
    leaf.prop_recursive(6, 120, 6, |inner| {
        let pieces = prop::collection::vec(inner, 0..6);
        prop_oneof![
            6 => (prop::sample::select(SHOWN.to_vec()), pieces.clone()).prop_map(|((open, close), inner)| Piece::Element(open, close, inner)),
            2 => (prop::sample::select(HIDDEN.to_vec()), pieces.clone()).prop_map(|((open, close), inner)| Piece::Hidden(open, close, inner)),
            1 => prop::collection::vec(prop::collection::vec(pieces, 1..4), 1..4).prop_map(Piece::Table),
        ]
    })
}

/// Writes pieces as HTML, and the numbers of the words that are shown.
fn write(pieces: &[Piece], shown: bool, html: &mut String, words: &mut usize, expected: &mut Vec<usize>) {
    for piece in pieces {
        match piece {
            Piece::Word => {
                *html += &format!("w{words} ");
                expected.extend(shown.then_some(*words));
                *words += 1;
            }
            Piece::Element(open, close, inner) | Piece::Hidden(open, close, inner) => {
                *html += open;
                write(inner, shown && !matches!(piece, Piece::Hidden(..)), html, words, expected);
                *html += close;
            }
            Piece::Table(rows) => {
                *html += "<table class=\"wikitable\"><tbody>";
                for row in rows {
                    *html += "\n<tr>";
                    for cell in row {
                        *html += "<td colspan=\"2\">";
                        write(cell, shown, html, words, expected);
                    }
                }
                *html += "</table>";
            }
        }
    }
}

proptest! {
    #[test]
    fn shown_words_are_kept_in_order(pieces in prop::collection::vec(piece(), 1..8)) {
        let (mut html, mut words, mut expected) = (String::from("<!DOCTYPE html><html><body>"), 0, Vec::new());
        write(&pieces, true, &mut html, &mut words, &mut expected);
        let text = run(html.as_bytes(), &Settings { main_content: false, ..Default::default() }).map_or(String::new(), |document| document.text);
        let found: Vec<usize> = text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        prop_assert_eq!(found, expected, "{} gave {}", html, text);
    }
}
