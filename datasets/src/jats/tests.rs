use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

fn read_with(xml: &str, settings: &Settings) -> Vec<Result<Document, Reject>> {
    let mut found = Vec::new();
    let outcome = parse(xml.as_bytes(), settings, &mut Document::default(), &mut |item| {
        found.push(item.cloned());
        ControlFlow::Continue(())
    });
    assert_eq!(outcome, ControlFlow::Continue(()));
    found
}

fn text_with(body: &str, settings: &Settings) -> String {
    let found = read_with(&format!("<article><front/><body>{body}</body></article>"), settings);
    found.into_iter().next().unwrap().unwrap().text
}

fn text(body: &str) -> String {
    text_with(body, &Settings::default())
}

const ARTICLE: &str = r#"<?xml version="1.0"?><!DOCTYPE article>
<article xml:lang="EN" article-type="research-article" xmlns:xlink="http://www.w3.org/1999/xlink"><front>
<journal-meta><journal-title-group><journal-title>J Test</journal-title></journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="pmcid">12</article-id><article-id pub-id-type="doi">10.1/ABC</article-id>
<article-categories><subj-group><subject>Trial</subject></subj-group></article-categories>
<title-group><article-title>A <italic>title</italic><xref ref-type="fn">*</xref></article-title>
<trans-title-group xml:lang="pt"><trans-title>Um</trans-title></trans-title-group></title-group>
<contrib-group><contrib><name><surname>Secret</surname></name></contrib></contrib-group>
<pub-date pub-type="collection"><year>2015</year></pub-date><pub-date pub-type="epub"><day>2</day><month>March</month><year>2015</year></pub-date>
<pub-date pub-type="pmc-release"><year>1999</year></pub-date>
<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>Free.</license-p></license></permissions>
<abstract><p>Short.</p></abstract><trans-abstract xml:lang="pt"><p>Curto.</p></trans-abstract>
<kwd-group><kwd>k1</kwd><kwd>k2</kwd></kwd-group></article-meta></front>
<body><sec><label>1.</label><title>Aims</title><p>One<sup><xref ref-type="bibr">3</xref></sup> <fig><label>Fig 1</label><caption><title>Seen.</title><p>Cap</p></caption></fig>two.</p></sec></body>
<back><ack><p>Thanks.</p></ack><ref-list><ref><mixed-citation>Gone</mixed-citation></ref></ref-list><fn-group><fn><label>1</label><p>None.</p></fn></fn-group></back>
<floats-group><table-wrap><label>T1</label><table><tr><td>a</td><td>b</td></tr></table><table-wrap-foot><fn><p>foot</p></fn></table-wrap-foot></table-wrap></floats-group>
<sub-article article-type="translation" xml:lang="pt" id="s1"><front-stub><title-group><article-title>T</article-title></title-group></front-stub><body><p>Dois.</p></body>
<sub-article article-type="reply" xml:lang="pt" id="s4"><body><p>Mais.</p></body></sub-article></sub-article>
<sub-article article-type="decision-letter" id="s2"><body><p>Accept.</p></body></sub-article></article>"#;

#[test]
fn an_article_and_its_translations() {
    let found: Vec<Document> = read_with(ARTICLE, &Settings::default()).into_iter().map(Result::unwrap).collect();
    assert_eq!(found.len(), 3);
    let main = &found[0];
    assert_eq!(main.text, "Abstract\n\nShort.\n\n1. Aims\n\nOne[3] two.\n\nFig 1 Seen.\nCap\n\nThanks.\n\n1 None.\n\nT1\na | b\n\nfoot");
    assert_eq!(main.title.as_deref(), Some("A title"));
    assert_eq!(main.language.as_deref(), Some("en"));
    assert_eq!(main.identifiers, ["pmcid:PMC12", "doi:10.1/abc"]);
    assert_eq!(main.published.as_deref(), Some("2015-03-02"));
    assert_eq!(main.license.as_deref(), Some("https://creativecommons.org/licenses/by/4.0/"));
    assert_eq!(main.metadata["keywords"], "k1; k2");
    assert_eq!((main.metadata["journal"].as_str(), main.metadata["article_type"].as_str()), ("J Test", "research-article"));
    let sections: Vec<_> = main.sections.iter().map(|section| (section.level, section.title.as_str())).collect();
    assert_eq!(sections, [(1, "Abstract"), (1, "1. Aims")]);
    assert_eq!(
        (found[1].text.as_str(), found[1].title.as_deref(), found[1].language.as_deref()),
        ("Resumo\n\nCurto.", Some("Um"), Some("pt"))
    );
    assert_eq!(found[1].identifiers, ["pmcid:PMC12#abstract-pt", "doi:10.1/abc#abstract-pt"]);
    assert_eq!((found[2].text.as_str(), found[2].language.as_deref()), ("Dois.", Some("pt")));
    assert_eq!(found[2].identifiers, ["pmcid:PMC12#s1", "doi:10.1/abc#s1"]);
    assert_eq!(found[2].license, main.license);
}

#[test]
fn settings_choose() {
    let everything = Settings { sub_articles: SubArticles::All, references: true, ..Settings::default() };
    let found: Vec<Document> = read_with(ARTICLE, &everything).into_iter().map(Result::unwrap).collect();
    assert_eq!(found.iter().skip(2).map(|part| part.text.as_str()).collect::<Vec<_>>(), ["Dois.", "Accept.", "Mais."]);
    assert!(found[0].text.contains("Gone"));
    let least = Settings {
        abstracts: false,
        tables: false,
        captions: false,
        footnotes: false,
        acknowledgements: false,
        sub_articles: SubArticles::None,
        translated_abstracts: TranslatedAbstracts::None,
        ..Settings::default()
    };
    let found = read_with(ARTICLE, &least);
    assert_eq!(found.iter().map(|item| item.as_ref().unwrap().text.as_str()).collect::<Vec<_>>(), ["1. Aims\n\nOne[3] two."]);
    let nothing = Settings { body: false, ..least };
    assert_eq!(read_with(ARTICLE, &nothing)[0].as_ref().unwrap_err().reason, "no-text");
    let sections = Settings { translated_abstracts: TranslatedAbstracts::Sections, ..Settings::default() };
    assert!(read_with(ARTICLE, &sections)[0].as_ref().unwrap().text.starts_with("Abstract\n\nShort.\n\nResumo\n\nCurto."));
    let no_formulas = Settings { formulas: false, lists: false, ..Settings::default() };
    assert_eq!(text_with("<p>a <inline-formula>x</inline-formula> b</p><list><list-item><p>c</p></list-item></list>", &no_formulas), "a b");
}

#[test]
fn rendering() {
    for (body, expected) in [
        (
            "<p>10<sup>5</sup> 10<sup>\u{2212}3</sup> CD4<sup>+</sup> m<sup>2</sup> 1<sup>st</sup> 5.1<sup>a</sup></p>",
            "10^5 10^\u{2212}3 CD4+ m2 1st 5.1^a",
        ),
        ("<p>5.3<sup><xref ref-type=\"bibr\">12</xref>,<xref ref-type=\"bibr\">13</xref></sup>.</p>", "5.3[12,13]."),
        ("<p>5.3<xref ref-type=\"bibr\"><sup>12</sup></xref> [<xref ref-type=\"bibr\">1</xref>]</p>", "5.3[12] [1]"),
        ("<p>a\n<italic>b</italic>\n, c (\n<xref>Fig 1</xref>\n). <bold>p</bold> .05</p>", "a b, c (Fig 1). p .05"),
        (
            "<list><list-item><label>1.</label><p>a</p><p>b</p></list-item><list-item><p>c</p></list-item></list><p>d</p>",
            "- 1. a\nb\n- c\n\nd",
        ),
        ("<def-list><def-item><term>BP</term><def><p>blood pressure</p></def></def-item></def-list>", "- BP: blood pressure"),
        (
            "<p>10<sup>&#x2212;7</sup> 10<sup>&#x2013;<italic>3</italic></sup> CD4<sup>&#x2212;</sup> 5<sup>&#x2212;</sup>x Ca<sup>2&#43;</sup></p>",
            "10^\u{2212}7 10^\u{2013}3 CD4\u{2212} 5\u{2212}x Ca2+",
        ),
        (
            "<p>tal<xref ref-type=\"bibr\">1</xref>,<xref ref-type=\"bibr\">2</xref> n<xref ref-type=\"table-fn\"><italic>a</italic></xref> SRC<xref ref-type=\"fn\"><sup>b</sup></xref></p>",
            "tal[1],[2] n[a] SRC[b]",
        ),
        (
            "<p>a<xref ref-type=\"bibr\">[1]</xref> (<xref ref-type=\"bibr\">A 2010</xref>,<xref ref-type=\"bibr\">B</xref>) 1<xref ref-type=\"fig\">a</xref> c <xref ref-type=\"bibr\">2</xref></p>",
            "a[1] (A 2010,B) 1a c 2",
        ),
        ("<p>a <media><label>Video 1</label><caption><p>Seen.</p></caption></media>b</p><p>c</p>", "a b\n\nVideo 1 Seen.\n\nc"),
        ("<disp-quote><p>q</p><attrib>who</attrib></disp-quote>", "q\n\nwho"),
        ("<p>a<fn><p>note</p></fn> b</p>", "a b\n\nnote"),
        ("<boxed-text><caption><title>Box</title></caption><p>inside</p></boxed-text>", "Box\n\ninside"),
        ("<preformat>x  y\n  z</preformat>", "x  y\n  z"),
        ("<p>&nosuch;a&nbsp;&alpha;</p>", "a \u{3b1}"),
        (
            "<supplementary-material><media><caption><p>Click here for additional data file.</p></caption></media></supplementary-material><p>x</p>",
            "x",
        ),
        (
            "<table-wrap><table><thead><tr><th/><th>n<break/>m</th></tr></thead><tr><td>r</td><td><p>1</p><p>2</p></td></tr></table></table-wrap>",
            "| n m\nr | 1 2",
        ),
        ("<sec><title>A</title><p>x</p><sec><title>B</title><p>y</p></sec></sec>", "A\n\nx\n\nB\n\ny"),
    ] {
        assert_eq!(text(body), expected, "{body}");
    }
}

#[test]
fn an_abstract_has_one_heading() {
    for (inside, expected) in [
        ("<label>Abstract</label><p>Short.</p>", "Abstract\n\nShort."),
        ("<label>Abstract</label><title>Summary</title><p>Short.</p>", "Summary\n\nShort."),
        ("<title>Aims</title><sec><label>1</label><title>Why</title><p>Short.</p></sec>", "Aims\n\n1 Why\n\nShort."),
    ] {
        let xml = format!("<article><front><article-meta><abstract>{inside}</abstract></article-meta></front></article>");
        assert_eq!(read_with(&xml, &Settings::default())[0].as_ref().unwrap().text, expected, "{inside}");
    }
}

#[test]
fn cells_that_span_keep_the_columns_aligned() {
    for (rows, expected) in [
        (
            "<thead><tr><th rowspan=\"2\">Drug</th><th colspan=\"2\">Dose</th><th>N</th></tr><tr><th>mg</th><th>mL</th><th>n</th></tr></thead>\
             <tbody><tr><td>A</td><td>1</td><td>2</td><td>3</td></tr></tbody>",
            "Drug | Dose | | N\n| mg | mL | n\nA | 1 | 2 | 3",
        ),
        (
            "<tr><td>a</td><td rowspan=\"3\">b</td><td>c</td></tr><tr><td>d</td></tr><tr><td>e</td><td>f</td></tr><tr><td>g</td><td>h</td></tr>",
            "a | b | c\nd\ne | | f\ng | h",
        ),
        ("<thead><tr><th rowspan=\"9\">a</th><th>b</th></tr></thead><tbody><tr><td>c</td></tr></tbody>", "a | b\nc"),
        (
            "<tr><td rowspan=\"2\"><table><tr><td rowspan=\"2\">x</td><td>y</td></tr><tr><td>z</td></tr></table></td><td>b</td></tr><tr><td>c</td></tr>",
            "x y z | b\n| c",
        ),
        ("<tr><td colspan=\"x\" rowspan=\"0\">a</td><td colspan=\"\">b</td></tr><tr><td>c</td></tr>", "a | b\nc"),
        (
            "<colspec colname=\"c1\"/><colspec colname=\"c2\"/><colspec colname=\"c3\"/>\
             <row><entry namest=\"c1\" nameend=\"c2\" morerows=\"1\">a</entry><entry>b</entry></row><row><entry colname=\"c3\">c</entry></row>",
            "a | | b\n| | c",
        ),
    ] {
        assert_eq!(text(&format!("<table-wrap><table>{rows}</table></table-wrap>")), expected, "{rows}");
    }
    let cell = "<td colspan=\"4000000000\" rowspan=\"4000000000\">x</td>".repeat(50);
    let hostile = format!("<table>{}</table>", format!("<tr>{cell}</tr>").repeat(50));
    assert!(text(&hostile).len() < 2 * hostile.len());
}

#[test]
fn formulas_stand_once() {
    let tex = r"\documentclass{minimal}\begin{document}$$x^2$$\end{document}";
    let math = "<mml:math><mml:msup><mml:mi>x</mml:mi><mml:mn>2</mml:mn></mml:msup></mml:math>";
    for (formula, expected) in [
        (format!("<inline-formula><alternatives><graphic/>{math}<tex-math>{tex}</tex-math></alternatives></inline-formula>"), "a x^2 b"),
        (format!("<inline-formula>{math}</inline-formula>"), "a x^2 b"),
        (math.to_owned(), "a x^2 b"),
        ("<inline-formula><italic>y</italic> = 1</inline-formula>".to_owned(), "a y = 1 b"),
        ("<disp-formula><label>(1)</label><graphic/></disp-formula>".to_owned(), "a (1) b"),
        ("<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>c</mi></mfrac></math>".to_owned(), "a (a+b)/c b"),
    ] {
        assert_eq!(text(&format!("<p>a {formula} b</p>")), expected, "{formula}");
    }
}

#[test]
fn wrappers_and_rejects() {
    let set =
        "<x:set><x:article><body><p>1</p></body></x:article><article><body/></article><article><body><p>3</p></body></article></x:set>";
    let found = read_with(set, &Settings::default());
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].as_ref().map(|one| (one.record, one.text.as_str())), Ok((Some(0), "1")));
    assert_eq!(found[1].as_ref().map_err(|reject| (reject.record, reject.reason)), Err((Some(1), "no-text")));
    assert_eq!(found[2].as_ref().map(|one| one.record), Ok(Some(2)));
    assert_eq!(read_with("<html/>", &Settings::default())[0].as_ref().unwrap_err().reason, "no-article");
    let deep = format!("<article><body>{}", "<sec>".repeat(10_000));
    assert_eq!(read_with(&deep, &Settings::default())[0].as_ref().unwrap_err().reason, "too-deep");
    let wide = format!("<article><body><p id=\"{}\">x</p></body></article>", "y".repeat(8 << 20));
    assert_eq!(read_with(&wide, &Settings::default())[0].as_ref().unwrap().text, "x");
}

#[test]
fn a_file_cut_at_any_byte_is_rejected() {
    for length in 0..ARTICLE.len() {
        let mut rejects = 0;
        let _ = parse(&ARTICLE.as_bytes()[..length], &Settings::default(), &mut Document::default(), &mut |item| {
            rejects += usize::from(item.is_err());
            assert!(item.is_err(), "cut at {length}");
            ControlFlow::Continue(())
        });
        assert_eq!(rejects, 1, "cut at {length}");
    }
}

#[test]
fn licences_as_they_are_worded() {
    for (permissions, expected) in [
        (
            "<license><license-p>See <ext-link xlink:href=\"http://creativecommons.org/licenses/by/2.0\">it</ext-link></license-p></license>",
            Some("http://creativecommons.org/licenses/by/2.0"),
        ),
        (
            "<license><ali:license_ref>http://creativecommons.org/licenses/by/4.0/</ali:license_ref></license>",
            Some("http://creativecommons.org/licenses/by/4.0/"),
        ),
        (
            "<license><p>Under CC (https://creativecommons.org/licenses/by/3.0/).</p></license>",
            Some("https://creativecommons.org/licenses/by/3.0/"),
        ),
        ("<license><license-p>Creative Commons Attribution License.</license-p></license>", Some("Creative Commons Attribution License.")),
        ("<copyright-statement>This is an open-access article.</copyright-statement>", Some("This is an open-access article.")),
        ("<copyright-statement>(c) 2004 Someone</copyright-statement>", None),
    ] {
        let xml = format!(
            "<article><front><article-meta><permissions>{permissions}</permissions></article-meta></front><body><p>x</p></body></article>"
        );
        assert_eq!(read_with(&xml, &Settings::default())[0].as_ref().unwrap().license.as_deref(), expected, "{permissions}");
    }
}

#[test]
fn every_shared_article_is_read() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let mut files = 0;
    for folder in ["jats_epmc", "jats_plos", "jats_elife_misc", "jats_scielo", "jats_craft", "jats_variants", "jats_epmc_nonmedical"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
            eprintln!("SKIPPED: no {folder} beside the repository");
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "xml")) {
            let bytes = std::fs::read(&path).unwrap();
            let mut documents = 0;
            let _ = parse(&bytes, &Settings::default(), &mut Document::default(), &mut |item| {
                let document = item.unwrap_or_else(|reject| panic!("{}: {reject:?}", path.display()));
                documents += 1;
                assert!(!document.identifiers.is_empty() && document.license.is_some(), "{}", path.display());
                assert!(!document.text.contains("\n\n\n") && !document.text.contains(" \n"), "{}", path.display());
                assert!(document.sections.iter().all(|section| document.text.get(section.start..section.end).is_some()));
                ControlFlow::Continue(())
            });
            assert!(documents > 0, "{}", path.display());
            files += 1;
        }
    }
    eprintln!("{files} articles read");
}

proptest! {
    #[test]
    fn a_mutated_article_never_panics(at in 0..ARTICLE.len(), length in 0usize..40, with in "[<>/a-z&; \"=]{0,8}") {
        let end = (at + length).min(ARTICLE.len());
        if ARTICLE.is_char_boundary(at) && ARTICLE.is_char_boundary(end) {
            let xml = format!("{}{with}{}", &ARTICLE[..at], &ARTICLE[end..]);
            let all = Settings { sub_articles: SubArticles::All, references: true, ..Settings::default() };
            read_with(&xml, &all);
        }
    }

    #[test]
    fn any_nesting_of_known_elements_ends(names in proptest::collection::vec(0usize..NAMES.len(), 0..60)) {
        let mut xml = String::from("<article><body>");
        for &name in &names {
            xml += &format!("<{}>t", NAMES[name]);
        }
        for &name in names.iter().rev() {
            xml += &format!("u</{}>", NAMES[name]);
        }
        xml += "</body></article>";
        let found = read_with(&xml, &Settings { references: true, ..Settings::default() });
        prop_assert_eq!(found.len(), 1);
    }
}

const NAMES: [&str; 26] = [
    "p",
    "sec",
    "title",
    "label",
    "fig",
    "caption",
    "table-wrap",
    "table",
    "tr",
    "td",
    "list",
    "list-item",
    "def-item",
    "term",
    "sup",
    "xref",
    "fn",
    "inline-formula",
    "math",
    "mfrac",
    "mi",
    "media",
    "preformat",
    "boxed-text",
    "italic",
    "ref",
];
