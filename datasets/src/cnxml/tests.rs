use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

const MODULE: &str = r##"<?xml version="1.0"?>
<document xmlns="http://cnx.rice.edu/cnxml" xmlns:m="http://www.w3.org/1998/Math/MathML" xml:lang="pl" module-id="u1">
<title>Skin</title>
<metadata xmlns:md="http://cnx.rice.edu/mdml"><md:content-id>m1</md:content-id><md:title>Skin</md:title>
<md:license url="http://creativecommons.org/licenses/by/4.0/">CC BY</md:license><md:revised>2011/02/03 10:00:00</md:revised>
<md:keywordlist><md:keyword>skin</md:keyword><md:keyword>hair</md:keyword></md:keywordlist><md:abstract><para>Aims:</para><list><item>see</item></list></md:abstract></metadata>
<content><para>A <term>cell</term> (<link target-id="f"/>b) of H<sub>2</sub>O, 10<sup>-3</sup> and Ca<sup>2+</sup>.<footnote>A note.</footnote> On.</para>
<section><title>One</title><note class="black-box"><title>Warning</title><label/><para>Stop.</para></note>
<section class="x"><title>Two</title><table><title>Doses</title><tgroup cols="2"><colspec/><thead><row><entry>Drug</entry><entry>Dose</entry></row></thead>
<tbody><row><entry>A<newline/>B</entry><entry><list><item>1 mg</item><item>2 mg</item></list></entry></row></tbody></tgroup></table></section>
<figure id="f"><title>Layers</title><media alt="alt words"><image src="x"/></media><caption>The layers.</caption></figure>
<exercise><problem><para>Which?</para><list list-type="enumerated" number-style="upper-alpha"><item>this</item><item>that</item></list></problem>
<solution><label/><para>B</para></solution></exercise>
<equation><m:math><m:mrow><m:msub><m:mtext>C</m:mtext><m:mn>6</m:mn></m:msub><m:mo>=</m:mo><m:mfrac><m:mn>1</m:mn><m:mrow><m:mi>x</m:mi><m:mo>+</m:mo><m:msup><m:mi>y</m:mi><m:mn>2</m:mn></m:msup></m:mrow></m:mfrac></m:mrow></m:math></equation>
</section><section class="references"><title>References</title><para>Gone.</para></section></content>
<glossary><definition><term>derm</term><meaning><para>skin</para></meaning></definition></glossary></document>"##;

fn read(bytes: &[u8], settings: &Settings) -> Result<Document, Reject> {
    let mut document = Document::default();
    let mut found = None;
    let _ = parse(bytes, settings, &mut document, &mut |result| {
        assert!(found.is_none());
        found = Some(result.cloned());
        ControlFlow::Continue(())
    });
    found.unwrap()
}

#[test]
fn renders_a_module() {
    let document = read(MODULE.as_bytes(), &Settings::default()).unwrap();
    assert_eq!(
        document.text,
        "Aims:\n\n- see\n\nA cell (Ilustracja b) of H2O, 10^-3 and Ca2+. On.\n\nA note.\n\nOne\n\nWarning\n\nStop.\n\nTwo\n\nDoses\n\n\
         Drug | Dose\nA B | 1 mg 2 mg\n\nLayers\n\nThe layers.\n\nWhich?\n\n- A. this\n- B. that\n\nB\n\nC6 = 1/(x + y^2)\n\nderm: skin"
    );
    assert_eq!(document.title.as_deref(), Some("Skin"));
    assert_eq!(document.language.as_deref(), Some("pl"));
    assert_eq!(document.license.as_deref(), Some("http://creativecommons.org/licenses/by/4.0/"));
    assert_eq!(document.published.as_deref(), Some("2011-02-03"));
    assert_eq!(document.identifiers, ["cnxml:m1"]);
    assert_eq!(document.metadata["keywords"], "skin; hair");
    let sections: Vec<_> = document.sections.iter().map(|section| (section.title.as_str(), section.level)).collect();
    assert_eq!(sections, [("One", 1), ("Two", 2)]);
}

#[test]
fn a_reference_without_words_leaves_no_empty_parentheses() {
    for (inside, expected) in [
        ("steps (<link target-id=\"x\"/>). First", "steps. First"),
        ("bacteria (<link target-id=\"x\"/>) also", "bacteria also"),
        ("f() (<link target-id=\"x\"/> b) (<link target-id=\"x\">this</link>)", "f() ( b) (this)"),
    ] {
        let xml = format!("<document><content><para>{inside}</para></content></document>");
        assert_eq!(read(xml.as_bytes(), &Settings::default()).unwrap().text, expected, "{inside}");
    }
}

#[test]
fn cells_that_span_keep_the_columns_aligned() {
    let xml = "<document><content><table><tgroup><colspec colname=\"a\"/><colspec colname=\"b\"/><colspec colname=\"c\"/><thead>\
        <row><entry namest=\"a\" nameend=\"b\">AB</entry><entry>C</entry></row></thead><tbody><row><entry morerows=\"1\">1</entry>\
        <entry>2</entry><entry>3</entry></row><row><entry>5</entry><entry>6</entry></row></tbody></tgroup></table></content></document>";
    assert_eq!(read(xml.as_bytes(), &Settings::default()).unwrap().text, "AB | | C\n1 | 2 | 3\n| 5 | 6");
}

#[test]
fn settings_leave_out_and_take_in() {
    let none = Settings {
        abstracts: false,
        captions: false,
        alt_text: true,
        tables: false,
        exercises: false,
        solutions: false,
        glossary: false,
        footnotes: false,
        references: true,
    };
    let document = read(MODULE.as_bytes(), &none).unwrap();
    for gone in ["Aims", "Layers", "Drug", "Which", "derm", "A note"] {
        assert!(!document.text.contains(gone), "{gone}");
    }
    assert!(document.text.contains("References\n\nGone."));
    let alt = read(MODULE.as_bytes(), &Settings { alt_text: true, ..Settings::default() }).unwrap();
    assert!(alt.text.contains("Layers\n\nalt words\n\nThe layers."));
}

#[test]
fn labels() {
    let labels: Vec<_> =
        [(1, "lower-alpha"), (26, "upper-alpha"), (27, "upper-alpha"), (4, "lower-roman"), (3, "arabic"), (399, "upper-roman")]
            .map(|(number, style)| label(number, style))
            .into();
    assert_eq!(labels, ["a", "Z", "27", "iv", "3", "CCCXCIX"]);
}

#[test]
fn truncation_anywhere_is_a_reject() {
    for end in 0..MODULE.len() - 1 {
        let reject = read(&MODULE.as_bytes()[..end], &Settings::default()).unwrap_err();
        assert!(["xml-truncated", "xml-malformed", "no-text"].contains(&reject.reason), "{end}: {reject:?}");
        assert!(reject.reason != "no-text" || end < 60, "{end}");
    }
}

#[test]
fn deep_nesting_is_a_reject() {
    for name in ["section", "list", "m:mrow", "m:mfrac", "table"] {
        let open = format!("<{name}>").repeat(10_000);
        let xml = format!("<document><content><para>x<m:math>{open}");
        assert_eq!(read(xml.as_bytes(), &Settings::default()).unwrap_err().reason, "too-deep");
    }
}

proptest! {
    #[test]
    fn mutations_never_panic(changes in prop::collection::vec((0usize..MODULE.len(), any::<u8>()), 1..6), cut in 0usize..MODULE.len()) {
        let mut bytes = MODULE.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = read(&bytes, &Settings::default());
        bytes.drain(..cut);
        let _ = read(&bytes, &Settings::default());
    }
}

#[test]
fn real_modules() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/openstax_cnxml"));
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("SKIPPED: {} is not there", folder.display());
        return;
    };
    let (mut count, mut polish) = (0, 0);
    for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "cnxml")) {
        let document = read(&std::fs::read(&path).unwrap(), &Settings::default()).unwrap();
        assert!(document.title.is_some() && document.identifiers.len() == 1, "{path:?}");
        assert!(!document.text.contains("\n\n\n") && !document.text.contains(" \n") && !document.text.contains("  "), "{path:?}");
        for section in &document.sections {
            assert!(document.text[section.start..section.end].starts_with(&section.title), "{path:?}");
        }
        count += 1;
        polish += usize::from(document.language.as_deref() == Some("pl"));
    }
    assert_eq!((count, polish), (535, 35));
}
