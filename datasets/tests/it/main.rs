#![allow(clippy::unwrap_used, reason = "helpers of tests")]
//! Sources from pattern to document: over the file system, a web server and an S3 server.

mod data;
mod http;
mod local;
mod s3;

use osler_datasets::list::{FileEntry, list};
use osler_datasets::open::{StorageConfig, Stores};
use osler_datasets::read::{ReadError, ReadSummary, read_file};
use osler_datasets::source::{Format, SourceConfig};
use osler_datasets::{Document, Error, Limits, Reject};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

fn stores(base: &Path) -> Stores {
    Stores::new(base, StorageConfig::default(), RUNTIME.handle().clone())
}

fn text_source(path: &[&str]) -> SourceConfig {
    SourceConfig::new("s", Format::Text, path.iter().map(ToString::to_string).collect())
}

fn list_now(source: &SourceConfig, stores: &Stores) -> Result<Vec<FileEntry>, Error> {
    RUNTIME.block_on(list(source, 0, stores))
}

fn paths(source: &SourceConfig, stores: &Stores) -> Vec<String> {
    list_now(source, stores).unwrap().into_iter().map(|file| file.path).collect()
}

type Read = (Vec<Document>, Vec<Reject>, Result<ReadSummary, ReadError>);

fn read_all(source: &SourceConfig, file: &FileEntry, stores: &Stores) -> Read {
    read_within(source, file, stores, &Limits::default())
}

fn read_within(source: &SourceConfig, file: &FileEntry, stores: &Stores, limits: &Limits) -> Read {
    let (mut documents, mut rejects) = (Vec::new(), Vec::new());
    let summary = read_file(source, file, stores, limits, &mut |found| {
        match found {
            Ok(document) => documents.push(document.clone()),
            Err(reject) => rejects.push(reject),
        }
        ControlFlow::Continue(())
    });
    (documents, rejects, summary)
}

/// An error with all its causes, as a person sees it.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
