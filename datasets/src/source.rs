//! A source: which files, in which format, under which licence.

use crate::error::Error;
use crate::license::{self, Verdict};
use crate::{bmc, cnxml, csv, html, jats, json, jsonl, medquad, parquet_file, pubmed, sample, text, textgrid, wikipedia};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// One `[[source]]` of a recipe. Written out, it shows every value in force, and of the formats' tables its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What the source is called in columns, counts and mixes: letters, digits, `-`, `_` and `.`.
    pub name: String,
    pub format: Format,
    /// Files, folders, globs (`**`, `{a,b}`), `s3://bucket/key*`, `http(s)://…`: one or a list. A relative path starts at the recipe's
    /// folder. The format `sample` has none.
    #[serde(default, deserialize_with = "one_or_many")]
    pub path: Vec<String>,
    /// Globs of files to pass over, matched against the path below the source's root, or the name alone where there is no `/` in it;
    /// default none.
    #[serde(default, deserialize_with = "one_or_many")]
    pub exclude: Vec<String>,
    /// Licence of records that state none; default: they count as unknown.
    #[serde(default)]
    pub license: Option<String>,
    /// Licences let in, as [`license::allowed`] matches them; default [`license::PERMISSIVE`]. `["*"]` lets in all, the unknown too.
    #[serde(default = "permissive", deserialize_with = "one_or_many")]
    pub licenses: Vec<String>,
    /// Language (BCP 47) of records that state none; default: unknown.
    #[serde(default)]
    pub language: Option<String>,
    #[serde(default)]
    pub jats: jats::Settings,
    #[serde(default)]
    pub bmc: bmc::Settings,
    #[serde(default)]
    pub pubmed: pubmed::Settings,
    #[serde(default)]
    pub cnxml: cnxml::Settings,
    #[serde(default)]
    pub medquad: medquad::Settings,
    #[serde(default)]
    pub html: html::Settings,
    #[serde(default)]
    pub wikipedia: wikipedia::Settings,
    #[serde(default)]
    pub text: text::Settings,
    #[serde(default)]
    pub jsonl: jsonl::Settings,
    #[serde(default)]
    pub json: json::Settings,
    #[serde(default)]
    pub csv: csv::Settings,
    #[serde(default)]
    pub parquet: parquet_file::Settings,
    #[serde(default)]
    pub textgrid: textgrid::Settings,
    #[serde(default)]
    pub sample: sample::Settings,
}

/// How a source's files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Journal articles in JATS or NLM XML.
    Jats,
    /// Articles in BioMed Central's own XML.
    Bmc,
    /// PubMed citations (`PubmedArticleSet`).
    Pubmed,
    /// OpenStax textbook modules.
    Cnxml,
    /// MedQuAD question-and-answer files.
    Medquad,
    /// Web pages, for their main content.
    Html,
    /// MediaWiki XML dumps.
    Wikipedia,
    /// Plain text and Markdown.
    Text,
    /// One JSON object per line.
    Jsonl,
    /// JSON arrays, or objects of records.
    Json,
    /// Comma-separated values with a header.
    Csv,
    Parquet,
    /// Praat transcripts.
    Textgrid,
    /// Generated articles with planted duplicates and faults.
    Sample,
}

impl Format {
    /// The name as recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jats => "jats",
            Self::Bmc => "bmc",
            Self::Pubmed => "pubmed",
            Self::Cnxml => "cnxml",
            Self::Medquad => "medquad",
            Self::Html => "html",
            Self::Wikipedia => "wikipedia",
            Self::Text => "text",
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Textgrid => "textgrid",
            Self::Sample => "sample",
        }
    }
}

impl SourceConfig {
    /// A source with every setting at its default.
    pub fn new(name: impl Into<String>, format: Format, path: Vec<String>) -> Self {
        Self {
            name: name.into(),
            format,
            path,
            exclude: Vec::new(),
            license: None,
            licenses: permissive(),
            language: None,
            jats: Default::default(),
            bmc: Default::default(),
            pubmed: Default::default(),
            cnxml: Default::default(),
            medquad: Default::default(),
            html: Default::default(),
            wikipedia: Default::default(),
            text: Default::default(),
            jsonl: Default::default(),
            json: Default::default(),
            csv: Default::default(),
            parquet: Default::default(),
            textgrid: Default::default(),
            sample: Default::default(),
        }
    }

    /// Checks what the types cannot: names, patterns, and settings that would have no effect.
    ///
    /// # Errors
    /// [`Error::Setting`] with the key and what is wrong with it.
    pub fn validate(&self) -> Result<(), Error> {
        let fault = |key: &str, problem: String| Err(Error::Setting { source_name: self.name.clone(), key: key.into(), problem });
        if self.name.is_empty() || !self.name.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter)) {
            return fault("name", "must be letters, digits, `-`, `_` and `.`, and at least one".into());
        }
        if self.format == Format::Sample && !self.path.is_empty() {
            return fault("path", "has no meaning for the format `sample`, which reads no files; remove it".into());
        }
        if self.format != Format::Sample && self.path.is_empty() {
            return fault("path", "is missing: give a file, a folder or a pattern".into());
        }
        if self.licenses.is_empty() {
            return fault("licenses", "is empty, which would drop every record; leave it out for the permissive ones".into());
        }
        if let Some(stated) = &self.license
            && license::normalize(stated).is_none()
        {
            return fault("license", format!("is `{stated}`, which is no licence known here; write an SPDX name such as `CC-BY-4.0`"));
        }
        for pattern in &self.exclude {
            if let Err(problem) = crate::glob::Glob::new(pattern) {
                return fault("exclude", format!("holds `{pattern}`: {problem}"));
            }
        }
        match self.idle_tables().first() {
            Some(table) => fault(table, format!("is set, but the source's format is `{}`", self.format.name())),
            None => Ok(()),
        }
    }

    /// Tables of formats other than the source's own that are not at their defaults.
    fn idle_tables(&self) -> Vec<&'static str> {
        let set = [
            // The sample's files are such articles.
            (Format::Jats, is_default(&self.jats) || self.format == Format::Sample),
            (Format::Bmc, is_default(&self.bmc)),
            (Format::Pubmed, is_default(&self.pubmed)),
            (Format::Cnxml, is_default(&self.cnxml)),
            (Format::Medquad, is_default(&self.medquad)),
            (Format::Html, is_default(&self.html)),
            (Format::Wikipedia, is_default(&self.wikipedia)),
            (Format::Text, is_default(&self.text)),
            (Format::Jsonl, is_default(&self.jsonl)),
            (Format::Json, is_default(&self.json)),
            (Format::Csv, is_default(&self.csv)),
            (Format::Parquet, is_default(&self.parquet)),
            (Format::Textgrid, is_default(&self.textgrid)),
            (Format::Sample, is_default(&self.sample)),
        ];
        set.into_iter().filter(|&(format, at_default)| !at_default && format != self.format).map(|(format, _)| format.name()).collect()
    }

    /// The id of a record's licence, or of the one assumed where it states none, and whether the source lets it in. A statement that
    /// cannot be understood is unknown: nothing is assumed over it.
    pub fn judge_license(&self, stated: Option<&str>) -> (Option<String>, Verdict) {
        let stated = stated.filter(|stated| !stated.trim().is_empty()).or(self.license.as_deref());
        let id = stated.and_then(license::normalize);
        let verdict = license::allowed(id.as_deref(), &self.licenses);
        (id, verdict)
    }
}

impl Serialize for SourceConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("format", &self.format)?;
        map.serialize_entry("path", &self.path)?;
        map.serialize_entry("exclude", &self.exclude)?;
        if let Some(license) = &self.license {
            map.serialize_entry("license", license)?;
        }
        map.serialize_entry("licenses", &self.licenses)?;
        if let Some(language) = &self.language {
            map.serialize_entry("language", language)?;
        }
        match self.format {
            Format::Jats => map.serialize_entry("jats", &self.jats)?,
            Format::Bmc => map.serialize_entry("bmc", &self.bmc)?,
            Format::Pubmed => map.serialize_entry("pubmed", &self.pubmed)?,
            Format::Cnxml => map.serialize_entry("cnxml", &self.cnxml)?,
            Format::Medquad => map.serialize_entry("medquad", &self.medquad)?,
            Format::Html => map.serialize_entry("html", &self.html)?,
            Format::Wikipedia => map.serialize_entry("wikipedia", &self.wikipedia)?,
            Format::Text => map.serialize_entry("text", &self.text)?,
            Format::Jsonl => map.serialize_entry("jsonl", &self.jsonl)?,
            Format::Json => map.serialize_entry("json", &self.json)?,
            Format::Csv => map.serialize_entry("csv", &self.csv)?,
            Format::Parquet => map.serialize_entry("parquet", &self.parquet)?,
            Format::Textgrid => map.serialize_entry("textgrid", &self.textgrid)?,
            Format::Sample => {
                map.serialize_entry("jats", &self.jats)?;
                map.serialize_entry("sample", &self.sample)?;
            }
        }
        map.end()
    }
}

fn permissive() -> Vec<String> {
    license::PERMISSIVE.iter().map(ToString::to_string).collect()
}

fn is_default<T: Default + PartialEq>(settings: &T) -> bool {
    *settings == T::default()
}

/// A string, or a list of strings.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;
    impl<'de> de::Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_string()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = sequence.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> Result<SourceConfig, String> {
        let source: SourceConfig = toml::from_str(toml).map_err(|error| error.to_string())?;
        source.validate().map_err(|error| error.to_string())?;
        Ok(source)
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let source = parse("name = 'pmc'\nformat = 'jats'\npath = 'a/**/*.xml'").unwrap();
        assert_eq!(source, SourceConfig::new("pmc", Format::Jats, vec!["a/**/*.xml".into()]));
        assert_eq!(source.licenses, license::PERMISSIVE);
        let written = toml::to_string(&source).unwrap();
        assert_eq!(parse(&written).unwrap(), source);
        assert_eq!(parse("name = 'a'\nformat = 'text'\npath = ['x', 'y']").unwrap().path, ["x", "y"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (toml, wanted) in [
            ("name = 'a'\nformat = 'jats'\npath = 'x'\nlanguag = 'en'", "languag"),
            ("name = 'a'\nformat = 'jatz'\npath = 'x'", "jatz"),
            ("name = 'a'\nformat = 'jats'", "`path`"),
            ("name = 'a b'\nformat = 'jats'\npath = 'x'", "`name`"),
            ("name = 'a'\nformat = 'sample'\npath = 'x'", "`path`"),
            ("name = 'a'\nformat = 'jats'\npath = 'x'\nlicenses = []", "`licenses`"),
            ("name = 'a'\nformat = 'jats'\npath = 'x'\nlicense = 'whatever'", "`license`"),
            ("name = 'a'\nformat = 'jats'\npath = 'x'\nexclude = '{a'", "`exclude`"),
            ("name = 'a'\nformat = 'jats'\npath = 3", "string"),
        ] {
            let error = parse(toml).expect_err(toml);
            assert!(error.contains(wanted), "{toml}: {error}");
        }
    }

    #[test]
    fn a_stated_license_is_never_replaced_by_the_assumed_one() {
        let mut source = SourceConfig::new("a", Format::Jats, vec!["x".into()]);
        assert_eq!(source.judge_license(None), (None, Verdict::Unknown));
        source.license = Some("CC-BY-4.0".into());
        assert_eq!(source.judge_license(None), (Some("CC-BY-4.0".into()), Verdict::Allowed));
        assert_eq!(source.judge_license(Some(" ")), (Some("CC-BY-4.0".into()), Verdict::Allowed));
        assert_eq!(source.judge_license(Some("ask the editor")), (None, Verdict::Unknown));
        assert_eq!(source.judge_license(Some("cc by-nc")), (Some("CC-BY-NC".into()), Verdict::NotAllowed));
    }
}
