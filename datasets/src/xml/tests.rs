use super::*;
use crate::{Document, Section};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<String, Reject> {
    let mut reader = Reader::new(bytes, &Limits::default());
    let mut out = String::new();
    loop {
        match reader.next()? {
            Event::Start(element) => {
                out += &format!("<{}", String::from_utf8_lossy(element.name()));
                for (name, value) in element.attributes() {
                    out += &format!(" {}={}", String::from_utf8_lossy(name), unescape(value));
                }
                out.push('>');
            }
            Event::End(name) => out += &format!("</{}>", String::from_utf8_lossy(name)),
            Event::Text(text) => out += &text,
            Event::Eof => return Ok(out),
        }
    }
}

fn reason(bytes: &[u8]) -> &'static str {
    read(bytes).map_or_else(|reject| reject.reason, |_| "read")
}

#[test]
fn events() {
    for (xml, expected) in [
        ("<a>x</a>", "<a>x</a>"),
        ("\u{feff}<a/>", "<a></a>"),
        ("<p:a xlink:href = 'q\"r' b=\"&lt;&alpha;&nosuch;&\"><c /></p:a >", "<a href=q\"r b=<α&><c></c></a>"),
        ("<a><!-- no --><?pi?><![CDATA[<b>&amp;]]></a>", "<a><b>&amp;</a>"),
        ("<a>&amp;&lt;&#65;&#x42;&nbsp;&nosuch;&#0;&#xD800;</a>", "<a>&<AB\u{a0}</a>"),
        ("<a>R&D & more &</a>", "<a>R&D & more &</a>"),
        ("<!DOCTYPE a [<!ENTITY b \"boom\">]><a>&b;</a>", "<a></a>"),
        ("<a x=\"1\n2\" y='>'/>", "<a x=1\n2 y=>></a>"),
    ] {
        assert_eq!(read(xml.as_bytes()).as_deref(), Ok(expected), "{xml}");
    }
}

#[test]
fn rejects() {
    for (xml, expected) in [
        (&b"<a><b></a>"[..], "xml-malformed"),
        (b"</a>", "xml-malformed"),
        (b"<a>p < 0.05</a>", "xml-malformed"),
        (b"<a>", "xml-truncated"),
        (b"<a", "xml-truncated"),
        (b"<a b=\"", "xml-truncated"),
        (b"<a><![CDATA[", "xml-truncated"),
        (b"<!DOCTYPE a [", "xml-truncated"),
        (b"<a>\xFF</a>", "invalid-utf8"),
    ] {
        assert_eq!(reason(xml), expected, "{}", String::from_utf8_lossy(xml));
    }
    assert_eq!(read(b"<a>ok\xFF</a>").map_err(|reject| reject.byte), Err(5));
}

#[test]
fn depth_is_bounded_and_an_error_stays() {
    let xml = "<a>".repeat(10_000);
    let mut reader = Reader::new(xml.as_bytes(), &Limits::default());
    let error = loop {
        match reader.next() {
            Ok(_) => {}
            Err(reject) => break reject,
        }
    };
    assert_eq!((error.reason, error.byte), ("too-deep", 256 * 3));
    assert_eq!(reader.next().unwrap_err(), error);
    assert_eq!(reader.skip_element().unwrap_err(), error);
}

#[test]
fn skipping_ends_behind_the_element() {
    let mut reader = Reader::new(b"<a><b><b/>x<c>y</c></b><d/>z</a>", &Limits::default());
    reader.next().unwrap();
    reader.next().unwrap();
    assert_eq!(reader.depth(), 2);
    reader.skip_element().unwrap();
    assert_eq!(reader.depth(), 1);
    assert!(matches!(reader.next().unwrap(), Event::Start(element) if element.name() == b"d"));
    reader.skip_element().unwrap();
    assert!(matches!(reader.next().unwrap(), Event::Text(text) if &*text == "z"));
}

#[test]
fn entity_declarations_cost_nothing() {
    let mut xml = String::from("<!DOCTYPE a [<!ENTITY l0 \"lol\">");
    for level in 1..20 {
        xml += &format!("<!ENTITY l{level} \"{}\">", format!("&l{};", level - 1).repeat(10));
    }
    xml += "]><a>&l19;kept</a>";
    let mut reader = Reader::new(xml.as_bytes(), &Limits::default());
    while !matches!(reader.next().unwrap(), Event::Text(text) if &*text == "kept") {}
    assert_eq!(reader.unknown_entities(), 1);
}

#[test]
fn other_encodings() {
    let text = "<a>é€😀</a>";
    for order in [u16::to_le_bytes as fn(u16) -> [u8; 2], u16::to_be_bytes] {
        let bytes: Vec<u8> = std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(order).collect();
        assert_eq!(transcode(&bytes).unwrap(), text.as_bytes());
        assert_eq!(transcode(&bytes[..bytes.len() - 1]).unwrap_err().reason, "invalid-utf16");
    }
    let latin = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xE9\x80</a>";
    assert!(transcode(latin).unwrap().ends_with("<a>é€</a>".as_bytes()));
    assert!(matches!(transcode(b"<a>\xE9</a>").unwrap(), Cow::Borrowed(_)));
}

fn built(build: impl FnOnce(&mut TextBuilder)) -> (String, Vec<Section>) {
    let mut builder = TextBuilder::new();
    build(&mut builder);
    let mut document = Document::default();
    builder.finish(&mut document);
    (document.text, document.sections)
}

#[test]
fn text_is_laid_out() {
    let (text, sections) = built(|builder| {
        builder.begin_section();
        builder.begin_title();
        builder.inline(" Methods\n");
        builder.end_title();
        builder.inline("  one\n two\u{a0}\u{2009}three ");
        builder.paragraph();
        builder.begin_section();
        builder.begin_title();
        builder.inline("Sub");
        builder.end_title();
        builder.begin_list();
        for item in ["a", "", "b"] {
            builder.item();
            builder.paragraph();
            builder.inline(item);
        }
        builder.end_list();
        builder.end_section();
        builder.end_section();
        builder.begin_table();
        for row in [&["", "x", "y"][..], &["", ""], &["r", "", "1 \n2"]] {
            builder.row();
            for (index, cell) in row.iter().enumerate() {
                if index > 0 {
                    builder.cell();
                }
                builder.inline(cell);
                builder.paragraph();
            }
        }
        builder.end_table();
        builder.inline("end");
    });
    assert_eq!(text, "Methods\n\none two three\n\nSub\n\n- a\n- b\n\n| x | y\nr | | 1 2\n\nend");
    let spans: Vec<_> = sections.iter().map(|section| (section.level, &text[section.start..section.end])).collect();
    assert_eq!(spans, [(1, "Methods\n\none two three\n\nSub\n\n- a\n- b"), (2, "Sub\n\n- a\n- b")]);
    assert_eq!(sections[1].title, "Sub");
}

#[test]
fn labels_join_what_follows() {
    let (text, sections) = built(|builder| {
        for (label, title) in [("1.", "Aims"), ("2.", "")] {
            builder.begin_section();
            builder.begin_title();
            builder.inline(label);
            builder.join();
            if !title.is_empty() {
                builder.begin_title();
                builder.inline(title);
                builder.end_title();
            }
            builder.paragraph();
            builder.inline("text");
            builder.end_section();
        }
    });
    assert_eq!(text, "1. Aims\n\ntext\n\n2. text");
    assert_eq!(sections.iter().map(|section| section.title.as_str()).collect::<Vec<_>>(), ["1. Aims"]);
}

#[test]
fn headings_nest_by_level() {
    let (text, sections) = built(|builder| {
        for (level, title) in [(2, "A"), (3, "B"), (2, "C"), (1, "D")] {
            builder.heading(level, title);
            builder.inline("x");
        }
    });
    let spans: Vec<_> = sections.iter().map(|section| (section.title.as_str(), section.level, section.start..section.end)).collect();
    assert_eq!(text.len(), sections[3].end);
    assert_eq!(spans, [("A", 1, 0..10), ("B", 2, 6..10), ("C", 1, 12..16), ("D", 1, 18..22)]);
}

#[test]
fn preformatted_lines_stay() {
    assert_eq!(built(|builder| builder.preformatted("a  b \r\n\r\n\tc\n")).0, "a  b\n\tc");
}

proptest! {
    #[test]
    fn folding_equals_splitting(pieces in proptest::collection::vec("[a\u{e9}\u{2013}\u{3042} \n\t\u{a0}\u{2009}\u{3000}]{0,12}", 0..6)) {
        let whole = pieces.concat();
        let expected = whole.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assert_eq!(built(|builder| pieces.iter().for_each(|piece| builder.inline(piece))).0, expected);
    }

    #[test]
    fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = transcode(&bytes);
    }

    #[test]
    fn any_markup_ends(pieces in proptest::collection::vec("[<>/a&;!?\\[\\]\"'= x:#-]{1,4}", 0..40)) {
        let _ = read(pieces.concat().as_bytes());
    }
}

/// What quick-xml makes of the same bytes, in the words of [`read`]; `None` where it finds an error.
fn oracle(xml: &str) -> Option<String> {
    use quick_xml::events::Event as Raw;
    let mut reader = quick_xml::Reader::from_str(xml);
    reader.config_mut().allow_dangling_amp = true;
    let (mut out, mut depth) = (String::new(), 0);
    let start = |tag: &quick_xml::events::BytesStart<'_>| {
        let mut out = format!("<{}", tag.local_name().as_ref());
        for attribute in tag.attributes().with_checks(false).map_while(Result::ok) {
            out += &format!(" {}={}", attribute.key.local_name().as_ref(), unescape(&attribute.value));
        }
        (out + ">", tag.local_name().as_ref().to_owned())
    };
    loop {
        match reader.read_event().ok()? {
            Raw::Start(tag) => {
                out += &start(&tag).0;
                depth += 1;
            }
            Raw::Empty(tag) => {
                let (text, name) = start(&tag);
                out += &format!("{text}</{name}>");
            }
            Raw::End(tag) => {
                out += &format!("</{}>", tag.local_name().as_ref());
                depth -= 1;
            }
            Raw::Text(text) => out += &text.into_inner(),
            Raw::CData(text) => out += &text.into_inner(),
            Raw::GeneralRef(name) => out += resolve(&name).as_deref().unwrap_or_default(),
            Raw::Eof => return (depth == 0).then_some(out),
            _ => {}
        }
    }
}

const PIECES: [&str; 22] = [
    "<a>",
    "</a>",
    "<p:b x='1' y=\"a>b\">",
    "</p:b>",
    "<c/>",
    "<c d = \"&lt;&#65;\" />",
    "text",
    " \u{e9}\n",
    "&amp;",
    "&alpha;",
    "&nosuch;",
    "& ",
    "<!-- <x> -->",
    "<?pi <y>?>",
    "<![CDATA[<&]]>",
    "<!DOCTYPE a [<!ENTITY b \"]>\"><!-- ' -->]>",
    "&#x3b1;",
    "</a >",
    "<d\n>",
    "</d>",
    "]]>",
    "\"'",
];

proptest! {
    #[test]
    fn events_agree_with_another_reader(picks in proptest::collection::vec(0usize..PIECES.len(), 0..24), balanced in any::<bool>()) {
        let mut xml: String = picks.iter().map(|&pick| PIECES[pick]).collect();
        if balanced {
            xml = xml.replace("</a>", "<a/>").replace("</a >", "").replace("</p:b>", "").replace("</d>", "").replace("<a>", "").replace("<d\n>", "<d/>");
            xml = xml.replace("<p:b x='1' y=\"a>b\">", "<p:b x='1' y=\"a>b\"/>");
            xml = format!("<r>{xml}</r>");
        }
        if let Some(expected) = oracle(&xml) {
            prop_assert_eq!(read(xml.as_bytes()), Ok(expected), "{}", xml);
        } else {
            prop_assert!(read(xml.as_bytes()).is_err(), "{}", xml);
        }
    }
}
