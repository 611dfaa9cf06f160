//! Real texts for the near-duplicate examples, from the folder of real documents beside the project. Readers proper are in the crate
//! `osler-datasets`; here a rough text is as good as a fine one.

#![allow(dead_code, reason = "each example takes what it needs")]

use std::error::Error;
use std::path::{Path, PathBuf};

/// Texts of every XML file of a folder: what stands between its tags.
pub fn articles(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut texts = Vec::new();
    for path in files(folder, "xml")? {
        let xml = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        let mut text = String::new();
        let mut rest = xml.as_str();
        while let Some((before, tag)) = rest.split_once('<') {
            text.push_str(before);
            text.push(' ');
            rest = tag.split_once('>').map_or("", |(_, after)| after);
        }
        texts.push(text);
    }
    Ok(texts)
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
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}
