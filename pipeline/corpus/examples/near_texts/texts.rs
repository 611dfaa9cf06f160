//! Real texts for the examples of deduplication, from the folder of real documents beside the project. Readers proper are in the crate
//! `osler-datasets`; here a rough text is as good as a fine one.

#![allow(dead_code, reason = "each example takes what it needs")]

use std::error::Error;
use std::path::{Path, PathBuf};

/// Texts of every XML file of a folder: what stands between its tags.
pub fn articles(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut texts = Vec::new();
    for path in files(folder, "xml")? {
        texts.push(without_tags(&String::from_utf8_lossy(&std::fs::read(path)?)));
    }
    Ok(texts)
}

/// What stands between the tags.
fn without_tags(xml: &str) -> String {
    let mut text = String::new();
    let mut rest = xml;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        rest = tag.split_once('>').map_or("", |(_, after)| after);
    }
    text
}

/// The folders of a folder, and of each the files as texts, those with tags without them, until there are `bytes_max` of them.
pub fn sources(data: &Path, bytes_max: usize) -> Result<Vec<(String, Vec<String>)>, Box<dyn Error>> {
    let mut sources = Vec::new();
    for folder in entries(data, Path::is_dir)? {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        for path in entries(&folder, Path::is_file)? {
            let file = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
            let text = if file.trim_start().starts_with('<') { without_tags(&file) } else { file };
            bytes += text.len();
            if bytes > bytes_max {
                break;
            }
            texts.push(text);
        }
        if !texts.is_empty() {
            sources.push((folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), texts));
        }
    }
    Ok(sources)
}

/// One column of a CSV file.
pub fn column(path: &Path, name: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut reader = csv::Reader::from_path(path)?;
    let place = reader.headers()?.iter().position(|header| header == name).ok_or("no such column")?;
    reader.records().map(|record| Ok(record?.get(place).unwrap_or_default().to_string())).collect()
}

/// Abstracts of PubMedQA: the parts of each with its conclusion, about 1.5 kB.
pub fn abstracts(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let records: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    let text = |record: &serde_json::Value| {
        let parts = record["CONTEXTS"].as_array().into_iter().flatten().chain([&record["LONG_ANSWER"]]);
        parts.filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join("\n\n")
    };
    Ok(records.values().map(text).collect())
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    entries(folder, |path| path.extension().is_some_and(|found| found == extension))
}

/// What a folder has of a kind, by name.
fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    paths.retain(|path| wanted(path));
    paths.sort();
    Ok(paths)
}
