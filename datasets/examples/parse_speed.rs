//! Prints how fast a reader turns a folder of XML files into text: `parse_speed jats|bmc FOLDER [ROUNDS]`.
//!
//! Files are read into memory first; one thread; the rate is of XML bytes, the best of the rounds.

use osler_datasets::{Document, Reject, bmc, jats};
use std::ops::ControlFlow;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [format, folder, rest @ ..] = arguments.as_slice() else { return Err("usage: parse_speed jats|bmc FOLDER [ROUNDS]".into()) };
    let rounds: usize = rest.first().map_or(Ok(10), |rounds| rounds.parse())?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "xml") {
            files.push(std::fs::read(path)?);
        }
    }
    let input_bytes: usize = files.iter().map(Vec::len).sum();
    let mut document = Document::default();
    let mut seconds_best = f64::INFINITY;
    let (mut documents, mut rejects, mut text_bytes) = (0, 0, 0);
    for _ in 0..rounds {
        (documents, rejects, text_bytes) = (0, 0, 0);
        let start = Instant::now();
        for bytes in &files {
            let mut emit = |found: Result<&Document, Reject>| {
                match found {
                    Ok(document) => (documents, text_bytes) = (documents + 1, text_bytes + document.text.len()),
                    Err(_) => rejects += 1,
                }
                ControlFlow::Continue(())
            };
            let _ = match format.as_str() {
                "jats" => jats::parse(bytes, &jats::Settings::default(), &mut document, &mut emit),
                "bmc" => bmc::parse(bytes, &bmc::Settings::default(), &mut document, &mut emit),
                other => return Err(format!("unknown format {other}").into()),
            };
        }
        seconds_best = seconds_best.min(start.elapsed().as_secs_f64());
    }
    let rate = input_bytes as f64 / seconds_best / 1e6;
    println!(
        "{} files, {input_bytes} bytes: {documents} documents, {rejects} rejects, {text_bytes} bytes of text; {rate:.1} MB/s",
        files.len()
    );
    Ok(())
}
