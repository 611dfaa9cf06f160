//! Maps the columns of tabular records (CSV, JSON, JSONL, Parquet) to the fields of a document.
//!
//! Every format lends its row through [`Row`], so that one function decides what a title, an identifier or a paragraph is. A column is
//! named as its header or schema names it; in JSON and Parquet dots descend (`meta.source`), and lists met on the way are followed into
//! each of their elements, so that a list of one where a scalar is expected reads as the scalar.

use crate::html;
use crate::text::{Whitespace, append};
use crate::{Document, Section};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::io;

/// Which column becomes which field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The column of the text, or several, joined in this order by an empty line. Default `text`.
    pub text: Columns,
    /// Whether each text column starts a section titled by the column's name. Default false.
    pub sections: bool,
    /// Titles to give the sections of some text columns, by column; such a column starts a section. Default none.
    pub section_titles: BTreeMap<String, String>,
    /// For a text column that holds a list: the column whose list has a title for each element. Default none.
    pub paragraph_titles: BTreeMap<String, String>,
    /// The title; of several columns the first that has a value. Default none. The same holds for the fields below.
    pub title: Columns,
    /// The source's own key of the record; becomes the identifier `id_scheme:value`. Default none.
    pub id: Option<String>,
    /// The scheme of `id`. Default `id`.
    pub id_scheme: String,
    /// Identifiers by scheme, such as `{ doi = "doi", pmid = "pmid", pmcid = ["pmcid", "PMCID"] }`. Default none.
    pub identifiers: BTreeMap<String, Columns>,
    /// The language: BCP 47 or a three-letter ISO 639 code. Default none.
    pub language: Columns,
    /// The licence as the source words it. Default none.
    pub license: Columns,
    /// The publication date. Default none.
    pub published: Columns,
    /// Columns kept as metadata under their own names; `"*"` keeps all that are not mapped. Default none.
    pub metadata: Columns,
    /// Markup within text and title: `none`, or `html` to resolve tags and entities. Default `none`.
    pub markup: Markup,
    /// `keep` the lines of the text as they are, or `fold` each paragraph into one line. Default `keep`.
    pub whitespace: Whitespace,
}

/// Markup within a text column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Markup {
    /// Plain text: `<` is a less-than sign.
    #[default]
    None,
    /// HTML tags and entities, as in abstracts with `<i>` and `<h4>`.
    Html,
}

/// One column name or several: in a recipe `"a"` or `["a", "b"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns(pub Vec<String>);

/// The columns of one record, by their place in [`Mapping::columns`].
pub trait Row {
    /// Calls `each` with every value of the column: none where it is null, several where it is a list.
    fn values(&self, column: usize, each: &mut dyn FnMut(&str));

    /// Calls `each` with the name and value of every field that no column names; only for formats without a schema.
    fn others(&self, _each: &mut dyn FnMut(&str, &str)) {}
}

/// Whether the names of a file's columns are surely names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Known,
    /// They are its first row, which is a record where there is no header: errors do not quote it.
    MayBeData,
}

/// Settings made ready for rows: column names replaced by their places.
#[derive(Debug, Clone)]
pub struct Mapping {
    columns: Vec<String>,
    text: Vec<TextColumn>,
    title: Vec<usize>,
    identifiers: Vec<(String, Vec<usize>)>,
    language: Vec<usize>,
    license: Vec<usize>,
    published: Vec<usize>,
    metadata: Vec<usize>,
    /// Whether metadata takes every field that is not mapped.
    others: bool,
    /// Column groups of which at least one must exist.
    required: Vec<Vec<usize>>,
    markup: Markup,
    whitespace: Whitespace,
}

#[derive(Debug, Clone)]
struct TextColumn {
    column: usize,
    title: Option<String>,
    titles: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            text: Columns(vec!["text".into()]),
            sections: false,
            section_titles: BTreeMap::new(),
            paragraph_titles: BTreeMap::new(),
            title: Columns::default(),
            id: None,
            id_scheme: "id".into(),
            identifiers: BTreeMap::new(),
            language: Columns::default(),
            license: Columns::default(),
            published: Columns::default(),
            metadata: Columns::default(),
            markup: Markup::None,
            whitespace: Whitespace::Keep,
        }
    }
}

impl Mapping {
    /// Makes `settings` ready.
    pub fn new(settings: &Settings) -> Self {
        let mut columns = Vec::new();
        let mut required = Vec::new();
        let mut group = |names: &[String]| -> Vec<usize> { names.iter().map(|name| place(&mut columns, name)).collect() };
        let mut text = Vec::new();
        for name in &settings.text.0 {
            let given = settings.section_titles.get(name).cloned();
            let title = given.or_else(|| settings.sections.then(|| name.clone()));
            let titles = settings.paragraph_titles.get(name).map(|titles| group(std::slice::from_ref(titles))[0]);
            text.push(TextColumn { column: group(std::slice::from_ref(name))[0], title, titles });
        }
        required.extend(text.iter().flat_map(|part| std::iter::once(part.column).chain(part.titles)).map(|column| vec![column]));
        let mut identifiers: Vec<(String, Vec<usize>)> =
            settings.identifiers.iter().map(|(scheme, names)| (scheme.clone(), group(&names.0))).collect();
        if let Some(id) = &settings.id {
            identifiers.insert(0, (settings.id_scheme.clone(), group(std::slice::from_ref(id))));
        }
        let [title, language, license, published] =
            [&settings.title, &settings.language, &settings.license, &settings.published].map(|names| group(&names.0));
        let others = settings.metadata.0.iter().any(|name| name == "*");
        let named: Vec<String> = settings.metadata.0.iter().filter(|name| *name != "*").cloned().collect();
        let metadata = group(&named);
        let alternatives = identifiers.iter().map(|(_, group)| group).chain([&title, &language, &license, &published]);
        required.extend(alternatives.filter(|group| !group.is_empty()).cloned());
        required.extend(metadata.iter().map(|column| vec![*column]));
        let (markup, whitespace) = (settings.markup, settings.whitespace);
        Self { columns, text, title, identifiers, language, license, published, metadata, others, required, markup, whitespace }
    }

    /// The columns that are read, each once; a [`Row`] is asked for them by place.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Whether fields that no column names are kept as metadata.
    pub fn takes_others(&self) -> bool {
        self.others
    }

    /// Checks the columns against the names a file has, which `exists` knows, and makes those of `available` that are not mapped
    /// metadata if the settings ask for all.
    ///
    /// # Errors
    ///
    /// A mapped column that the file lacks, with the nearest name that it has.
    pub fn resolve(&mut self, available: &[String], names: Names, exists: &dyn Fn(&str) -> bool) -> io::Result<()> {
        for group in &self.required {
            if group.iter().any(|column| exists(&self.columns[*column])) {
                continue;
            }
            let name = &self.columns[group[0]];
            let hint = match nearest(name, available) {
                Some(near) => format!("did you mean {near:?}?"),
                None if available.len() == 1 => "it has one column; is the delimiter right?".into(),
                None if names == Names::MayBeData => {
                    format!(
                        "its first row has {} fields and none of this name; if that is no header, name them in `names`",
                        available.len()
                    )
                }
                None => format!("it has {}", listed(available)),
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("there is no column {name:?}: {hint}")));
        }
        if std::mem::take(&mut self.others) {
            let new = |name: &&String| !name.is_empty() && !self.columns.iter().any(|column| column == *name || inside(column, name));
            let names: Vec<String> = available.iter().filter(new).cloned().collect();
            self.metadata.extend(self.columns.len()..self.columns.len() + names.len());
            self.columns.extend(names);
        }
        Ok(())
    }

    /// Fills `document` (cleared first) from `row`; false where no text column has text.
    pub fn fill(&self, row: &dyn Row, document: &mut Document) -> bool {
        document.clear();
        for part in &self.text {
            self.text_column(row, part, document);
        }
        if document.text.is_empty() {
            return false;
        }
        close_sections(document);
        document.title = self.first(row, &self.title, |value| Some(self.line(value)));
        document.language = self.first(row, &self.language, language);
        document.license = self.first(row, &self.license, |value| Some(value.to_owned()));
        document.published = self.first(row, &self.published, date);
        for (scheme, columns) in &self.identifiers {
            let value = self.first(row, columns, |value| identifier(scheme, value));
            document.identifiers.extend(value.filter(|value| !document.identifiers.contains(value)));
        }
        for &column in &self.metadata {
            row.values(column, &mut |value| add_metadata(&mut document.metadata, &self.columns[column], value));
        }
        if self.others {
            row.others(&mut |name, value| add_metadata(&mut document.metadata, name, value));
        }
        true
    }

    fn text_column(&self, row: &dyn Row, part: &TextColumn, document: &mut Document) {
        let mut titles = Vec::new();
        if let Some(column) = part.titles {
            row.values(column, &mut |value| titles.push(self.line(value)));
        }
        let mut titles = titles.into_iter();
        let (from, nested) = (document.text.len(), part.title.is_some());
        let sections_from = document.sections.len();
        if let Some(title) = &part.title {
            heading(document, title, 1);
        }
        let titled = document.text.len();
        row.values(part.column, &mut |value| {
            if let Some(title) = titles.next().filter(|title| !title.is_empty() && !value.trim().is_empty()) {
                heading(document, &title, if nested { 2 } else { 1 });
            }
            match self.markup {
                Markup::None => append(value, self.whitespace, &mut document.text),
                Markup::Html => html::fragment(value, document),
            }
        });
        if document.text.len() == titled {
            document.text.truncate(from);
            document.sections.truncate(sections_from);
        }
    }

    fn first(&self, row: &dyn Row, columns: &[usize], read: impl Fn(&str) -> Option<String>) -> Option<String> {
        let mut found = None;
        for &column in columns {
            row.values(column, &mut |value| {
                let value = value.trim();
                if found.is_none() && !value.is_empty() {
                    found = read(value).filter(|value| !value.is_empty());
                }
            });
        }
        found
    }

    /// A value as one line.
    fn line(&self, value: &str) -> String {
        let mut line = String::new();
        if self.markup == Markup::Html && value.contains(['<', '&']) {
            let mut scratch = Document::default();
            html::fragment(value, &mut scratch);
            append(&scratch.text, Whitespace::Fold, &mut line);
        } else {
            append(value, Whitespace::Fold, &mut line);
        }
        if line.contains('\n') { line.split_whitespace().collect::<Vec<_>>().join(" ") } else { line }
    }
}

/// Appends a section's title as a paragraph and opens the section.
pub(crate) fn heading(document: &mut Document, title: &str, level: u32) {
    if !document.text.is_empty() {
        document.text.push_str("\n\n");
    }
    let start = document.text.len();
    document.text.push_str(title);
    document.sections.push(Section { title: title.to_owned(), level, start, end: start });
}

/// Ends every section where the next of its level or a higher one starts, or with the text.
pub(crate) fn close_sections(document: &mut Document) {
    let mut open: Vec<usize> = Vec::new();
    for next in 0..=document.sections.len() {
        let (level, start) = document.sections.get(next).map_or((0, document.text.len()), |section| (section.level, section.start));
        while let Some(&last) = open.last() {
            let section = &mut document.sections[last];
            if section.level < level {
                break;
            }
            section.end = document.text[..start].trim_end().len().max(section.start);
            open.pop();
        }
        open.push(next);
    }
}

/// Three-letter codes (terminological and bibliographic) and their two-letter forms, from the ISO 639-2 code list.
const SHORT: &[(&str, &str)] = &[
    ("alb", "sq"),
    ("ara", "ar"),
    ("arm", "hy"),
    ("baq", "eu"),
    ("bel", "be"),
    ("ben", "bn"),
    ("bos", "bs"),
    ("bul", "bg"),
    ("cat", "ca"),
    ("ces", "cs"),
    ("chi", "zh"),
    ("cym", "cy"),
    ("cze", "cs"),
    ("dan", "da"),
    ("deu", "de"),
    ("dut", "nl"),
    ("ell", "el"),
    ("eng", "en"),
    ("est", "et"),
    ("eus", "eu"),
    ("fas", "fa"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("fre", "fr"),
    ("geo", "ka"),
    ("ger", "de"),
    ("gle", "ga"),
    ("glg", "gl"),
    ("gre", "el"),
    ("heb", "he"),
    ("hin", "hi"),
    ("hrv", "hr"),
    ("hun", "hu"),
    ("hye", "hy"),
    ("ice", "is"),
    ("ind", "id"),
    ("isl", "is"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kat", "ka"),
    ("kor", "ko"),
    ("lat", "la"),
    ("lav", "lv"),
    ("lit", "lt"),
    ("mac", "mk"),
    ("may", "ms"),
    ("mkd", "mk"),
    ("msa", "ms"),
    ("nld", "nl"),
    ("nno", "nn"),
    ("nob", "nb"),
    ("nor", "no"),
    ("per", "fa"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rum", "ro"),
    ("rus", "ru"),
    ("slk", "sk"),
    ("slo", "sk"),
    ("slv", "sl"),
    ("spa", "es"),
    ("sqi", "sq"),
    ("srp", "sr"),
    ("swa", "sw"),
    ("swe", "sv"),
    ("tam", "ta"),
    ("tel", "te"),
    ("tha", "th"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("urd", "ur"),
    ("vie", "vi"),
    ("wel", "cy"),
    ("zho", "zh"),
];

/// Reads a language as BCP 47 in lower case; a three-letter ISO 639-2 code that has a two-letter form becomes it.
pub(crate) fn language(value: &str) -> Option<String> {
    let code = value.trim().to_ascii_lowercase().replace('_', "-");
    let first = code.split('-').next().unwrap_or_default();
    let shape = (2..=8).contains(&first.len()) && first.bytes().all(|byte| byte.is_ascii_lowercase());
    if !shape || code.len() > 35 || !code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    Some(match SHORT.binary_search_by_key(&first, |(long, _)| *long) {
        Ok(at) => format!("{}{}", SHORT[at].1, &code[first.len()..]),
        Err(_) => code,
    })
}

/// Reads a date as ISO 8601, as exact as stated: `2015`, `2015-03`, `2015-03-21`. Knows `2015-03-21T…`, `2015/3/21`, `20150321` and
/// `2015 Mar 21`.
pub(crate) fn date(value: &str) -> Option<String> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let bytes = value.trim().as_bytes();
    let (digits, rest) = bytes.split_at(bytes.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let ascii = |part: &[u8]| std::str::from_utf8(part).ok().map(str::to_owned);
    let (year, month, day) = match digits.len() {
        8 => (&digits[..4], ascii(&digits[4..6])?.parse().ok(), ascii(&digits[6..])?.parse().ok()),
        4 => {
            let text = ascii(rest.get(..rest.len().min(16)).filter(|part| part.is_ascii()).unwrap_or_default())?;
            let mut parts = text.split(['-', '/', ' ', 'T', '.', ',']).filter(|part| !part.is_empty());
            let month = parts.next().and_then(|part| {
                let named = part.get(..3).map(str::to_ascii_lowercase).and_then(|name| MONTHS.iter().position(|month| *month == name));
                named.map(|at| at as u32 + 1).or_else(|| part.parse().ok())
            });
            (digits, month, parts.next().and_then(|part| part.parse().ok()))
        }
        _ => return None,
    };
    let month: Option<u32> = month.filter(|month| (1..=12).contains(month));
    let day: Option<u32> = day.filter(|day| month.is_some() && (1..=31).contains(day));
    let mut date = ascii(year)?;
    for part in [month, day].into_iter().flatten() {
        date.push_str(&format!("-{part:02}"));
    }
    Some(date)
}

/// Writes an identifier as `scheme:value`: a DOI without resolver and in lower case, a PMC id with its prefix.
pub(crate) fn identifier(scheme: &str, value: &str) -> Option<String> {
    let value = value.trim();
    let value = match scheme {
        "doi" => {
            let lower = value.to_ascii_lowercase();
            lower.find("10.").map(|at| lower[at..].to_owned())?
        }
        "pmid" => value.trim_start_matches(|letter: char| !letter.is_ascii_digit()).to_owned(),
        "pmcid" => format!("PMC{}", value.trim_start_matches(|letter: char| !letter.is_ascii_digit())),
        _ => value.to_owned(),
    };
    (!value.is_empty() && value != "PMC").then(|| format!("{scheme}:{value}"))
}

fn add_metadata(metadata: &mut BTreeMap<String, String>, name: &str, value: &str) {
    let value = value.trim();
    if value.is_empty() {
        return;
    }
    match metadata.get_mut(name) {
        Some(have) => {
            have.push_str("; ");
            have.push_str(value);
        }
        None => {
            metadata.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn place(columns: &mut Vec<String>, name: &str) -> usize {
    columns.iter().position(|column| column == name).unwrap_or_else(|| {
        columns.push(name.to_owned());
        columns.len() - 1
    })
}

fn inside(path: &str, column: &str) -> bool {
    path.strip_prefix(column).is_some_and(|rest| rest.starts_with('.'))
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{:?}", name.chars().take(40).collect::<String>())).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    if shown.is_empty() { "no columns".into() } else { shown.join(", ") + &more }
}

/// The available name nearest to `name` by edit distance, if it is near: at most a third of its letters differ.
fn nearest<'a>(name: &str, available: &'a [String]) -> Option<&'a String> {
    let near = available.iter().filter(|other| other.len() <= 256 && !other.is_empty());
    let wanted = name.to_lowercase();
    near.map(|other| (distance(&wanted, &other.to_lowercase()), other))
        .filter(|(distance, other)| distance * 3 <= wanted.chars().count().max(other.chars().count()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// The Levenshtein distance between two short names.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

impl From<&str> for Columns {
    fn from(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }
}

impl<const N: usize> From<[&str; N]> for Columns {
    fn from(names: [&str; N]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [name] => serializer.serialize_str(name),
            names => serializer.collect_seq(names),
        }
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Columns;
            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("a column name or a list of column names")
            }
            fn visit_str<E>(self, name: &str) -> Result<Columns, E> {
                Ok(Columns::from(name))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Columns, A::Error> {
                let mut columns = Columns::default();
                while let Some(name) = names.next_element()? {
                    columns.0.push(name);
                }
                Ok(columns)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages() {
        for (code, expected) in [
            ("eng", Some("en")),
            ("pt_BR", Some("pt-br")),
            ("DEU-Latn", Some("de-latn")),
            ("haw", Some("haw")),
            ("", None),
            ("x y", None),
            ("1", None),
        ] {
            assert_eq!(language(code).as_deref(), expected, "{code}");
        }
        // The table is searched by halves.
        assert!(SHORT.is_sorted());
        for (long, short) in SHORT {
            assert_eq!(language(long).as_deref(), Some(*short));
        }
    }

    #[test]
    fn dates() {
        let cases = [
            ("2015", Some("2015")),
            ("2015-03", Some("2015-03")),
            ("2015-3-21T10:00:00Z", Some("2015-03-21")),
            ("2015/03/21", Some("2015-03-21")),
            ("20150321", Some("2015-03-21")),
            ("2015 Mar 21", Some("2015-03-21")),
            ("2009 Jun", Some("2009-06")),
            ("2018 ", Some("2018")),
            ("2015-13-40", Some("2015")),
            ("2015-é", Some("2015")),
            ("March 2015", None),
            ("", None),
            ("123456789", None),
        ];
        for (value, expected) in cases {
            assert_eq!(date(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn identifiers() {
        let cases = [
            ("doi", "https://doi.org/10.1/AB", Some("doi:10.1/ab")),
            ("doi", "none", None),
            ("pmid", " 12 ", Some("pmid:12")),
            ("pmcid", "PMC12", Some("pmcid:PMC12")),
            ("pmcid", "12", Some("pmcid:PMC12")),
            ("pmcid", "PMC", None),
            ("x", " a ", Some("x:a")),
        ];
        for (scheme, value, expected) in cases {
            assert_eq!(identifier(scheme, value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn unknown_settings_and_wrong_types_are_refused() {
        assert!(toml::from_str::<Settings>("txt = 'a'").unwrap_err().to_string().contains("txt"));
        assert!(toml::from_str::<Settings>("text = 1").unwrap_err().to_string().contains("a column name or a list"));
    }

    #[test]
    fn sections_end_where_the_next_of_their_level_starts() {
        let mut document = Document::default();
        for (title, level) in [("a", 1), ("b", 2), ("c", 3), ("d", 2), ("e", 1)] {
            heading(&mut document, title, level);
        }
        close_sections(&mut document);
        let ranges: Vec<_> = document.sections.iter().map(|section| &document.text[section.start..section.end]).collect();
        assert_eq!(ranges, ["a\n\nb\n\nc\n\nd", "b\n\nc", "c", "d", "e"]);
    }
}
