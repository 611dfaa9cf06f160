//! From a source's patterns to its files.

use crate::error::Error;
use crate::glob::{self, Glob};
use crate::open::{Location, Stores};
use crate::sample;
use crate::source::{Format, SourceConfig};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileEntry {
    /// Name of its source.
    pub source: String,
    /// Place of its source in the recipe, from 0.
    pub source_index: u32,
    /// Where it lies: `file:///…` (percent-encoded), `s3://bucket/key`, `http(s)://…`; or `sample:///…`, which is made when read.
    pub url: String,
    /// Path below the source's root, `/`-separated. The root is the deepest folder that holds all matches of all the source's patterns
    /// by their fixed parts, so this is the same wherever the data lies.
    pub path: String,
    pub num_bytes: u64,
    /// Changes when the file does: its time of change, or what the server calls its version. Never part of any output.
    pub version: String,
}

/// Lists the files of `source`, sorted by path, each once.
///
/// A pattern is a file, a folder (everything below it), or a glob; what follows a relative one is taken from the base folder of
/// `stores`. Hidden files and folders (`.name`) are passed over, folders reached twice (links) are entered once.
///
/// # Errors
/// [`Error`] for a pattern that matches nothing or cannot be looked at, and for two files with one path.
pub async fn list(source: &SourceConfig, source_index: u32, stores: &Stores) -> Result<Vec<FileEntry>, Error> {
    if source.format == Format::Sample {
        let entry = |file: sample::SampleFile| FileEntry {
            source: source.name.clone(),
            source_index,
            url: format!("sample:///{}", file.path),
            path: file.path,
            num_bytes: file.bytes.len() as u64,
            version: String::new(),
        };
        return Ok(sample::generate(&source.sample).map(entry).collect());
    }
    let setting = |key: &str, problem: String| Error::Setting { source_name: source.name.clone(), key: key.into(), problem };
    let mut exclude = Vec::with_capacity(source.exclude.len());
    for pattern in &source.exclude {
        let glob = Glob::new(pattern).map_err(|problem| setting("exclude", format!("holds `{pattern}`: {problem}")))?;
        exclude.push((glob, pattern.contains('/')));
    }
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pattern in &source.path {
        let location = stores.locate(pattern).map_err(|problem| setting("path", format!("holds `{pattern}`: {problem}")))?;
        let found = match &location {
            Location::Local(path) => list_local(source, pattern, path)?,
            Location::S3 { bucket, key } => list_s3(source, pattern, bucket, key, stores).await?,
            Location::Http { .. } => list_http(source, pattern, stores).await?,
        };
        if found.files.is_empty() {
            return Err(Error::NothingMatched { source_name: source.name.clone(), pattern: pattern.clone() });
        }
        groups.entry(location.authority()).or_default().add(found);
    }
    let mut entries: BTreeMap<String, FileEntry> = BTreeMap::new();
    for group in groups.into_values() {
        for (key, file) in group.files {
            let path = below(&key, &group.root).to_string();
            let name = path.rsplit('/').next().unwrap_or(&path);
            if exclude.iter().any(|(glob, whole_path)| glob.matches(if *whole_path { &path } else { name })) {
                continue;
            }
            let File { url, num_bytes, version } = file;
            let entry = FileEntry { source: source.name.clone(), source_index, url, path, num_bytes, version };
            if let Some(other) = entries.get(&entry.path) {
                let (source_name, first, second) = (entry.source, other.url.clone(), entry.url);
                return Err(Error::Collision { source_name, path: entry.path, first, second });
            }
            entries.insert(entry.path.clone(), entry);
        }
    }
    Ok(entries.into_values().collect())
}

/// What one pattern gave: the folder its matches lie in, and the files by their full key.
#[derive(Default)]
struct Found {
    root: String,
    files: BTreeMap<String, File>,
}

struct File {
    url: String,
    num_bytes: u64,
    version: String,
}

impl File {
    fn local(url: String, metadata: &std::fs::Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Self { url, num_bytes: metadata.len(), version: since.map_or_else(String::new, |since| since.as_nanos().to_string()) }
    }

    fn remote(url: String, meta: &object_store::ObjectMeta) -> Self {
        let version = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        Self { url, num_bytes: meta.size, version }
    }
}

/// The patterns of one authority together.
#[derive(Default)]
struct Group {
    root: String,
    files: BTreeMap<String, File>,
}

impl Group {
    fn add(&mut self, found: Found) {
        self.root = if self.files.is_empty() { found.root } else { common_folder(&self.root, &found.root).to_string() };
        self.files.extend(found.files);
    }
}

/// The deepest folder that both lie in.
fn common_folder<'a>(first: &'a str, second: &str) -> &'a str {
    let mut end = 0;
    let mut at = 0;
    for (left, right) in first.split('/').zip(second.split('/')) {
        if left != right {
            return &first[..end];
        }
        at += left.len();
        end = at;
        at += 1;
    }
    &first[..end]
}

fn below<'a>(key: &'a str, root: &str) -> &'a str {
    key.strip_prefix(root.trim_end_matches('/')).unwrap_or(key).trim_start_matches('/')
}

fn is_hidden(relative: &str) -> bool {
    relative.split('/').any(|component| component.starts_with('.'))
}

fn list_local(source: &SourceConfig, pattern: &str, path: &Path) -> Result<Found, Error> {
    let fault = |path: &Path, fault| Error::Local { source_name: source.name.clone(), path: path.display().to_string(), source: fault };
    let text = path.to_str().ok_or_else(|| Error::Setting {
        source_name: source.name.clone(),
        key: "path".into(),
        problem: format!("holds `{pattern}`, which leads to a folder whose name is not UTF-8"),
    })?;
    // A file that is really there is meant literally, even if its name looks like a pattern.
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.is_file()
    {
        let root = text.rfind('/').map_or("", |slash| &text[..slash]).to_string();
        let file = File::local(crate::open::file_url(text), &metadata);
        return Ok(Found { root, files: BTreeMap::from([(text.to_string(), file)]) });
    }
    let (root, rest) = if path.is_dir() { (text, "") } else { glob::fixed_prefix(text) };
    let mut found = Found { root: root.trim_end_matches('/').to_string(), files: BTreeMap::new() };
    let root = Path::new(root);
    if !root.is_dir() {
        return Ok(found);
    }
    let (matcher, depth_max) = matcher(source, pattern, rest)?;
    for (relative, path) in walk(root, depth_max).map_err(|(path, cause)| fault(&path, cause))? {
        let name = relative.to_str();
        let shown = relative.to_string_lossy();
        if is_hidden(&shown) || !matcher.matches(&shown) {
            continue;
        }
        let metadata = std::fs::metadata(&path).map_err(|cause| fault(&path, cause))?;
        if !metadata.is_file() {
            continue;
        }
        let Some(name) = name else {
            return Err(fault(&path, std::io::Error::other("its name is not UTF-8; rename it or exclude its folder")));
        };
        let key = format!("{}/{name}", found.root);
        let file = File::local(crate::open::file_url(&key), &metadata);
        found.files.insert(key, file);
    }
    Ok(found)
}

/// The matcher of what follows the fixed part, and how many levels down it can match.
fn matcher(source: &SourceConfig, pattern: &str, rest: &str) -> Result<(Glob, usize), Error> {
    let rest = if rest.is_empty() { "**" } else { rest };
    let glob = Glob::new(rest).map_err(|problem| Error::Setting {
        source_name: source.name.clone(),
        key: "path".into(),
        problem: format!("holds `{pattern}`: {problem}"),
    })?;
    let depth_max = if rest.contains("**") { usize::MAX } else { rest.matches('/').count() + 1 };
    Ok((glob, depth_max))
}

/// Everything below `root` that is not a folder, as (path below root, full path). Real folders first, then what links lead to, so that a
/// folder with both is seen under its own name; no folder is entered twice, so that a loop of links ends.
fn walk(root: &Path, depth_max: usize) -> Result<Vec<(PathBuf, PathBuf)>, (PathBuf, std::io::Error)> {
    let mut files = Vec::new();
    let mut entered = HashSet::new();
    let mut folders = vec![(PathBuf::new(), 1usize)];
    let mut links = BTreeSet::new();
    loop {
        let (relative, depth) = match folders.pop() {
            Some(folder) => folder,
            None => match links.pop_first() {
                Some(link) => link,
                None => return Ok(files),
            },
        };
        let folder = root.join(&relative);
        let at_folder = |cause| (folder.clone(), cause);
        if !entered.insert(folder.canonicalize().map_err(at_folder)?) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(at_folder)? {
            let entry = entry.map_err(at_folder)?;
            let kind = entry.file_type().map_err(at_folder)?;
            let name = relative.join(entry.file_name());
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let is_linked_folder = kind.is_symlink() && entry.path().is_dir();
            if is_hidden {
                continue;
            } else if is_linked_folder && depth < depth_max {
                links.insert((name, depth + 1));
            } else if kind.is_dir() && depth < depth_max {
                folders.push((name, depth + 1));
            } else if !kind.is_dir() && !is_linked_folder {
                files.push((name, entry.path()));
            }
        }
    }
}

async fn list_s3(source: &SourceConfig, pattern: &str, bucket: &str, key: &str, stores: &Stores) -> Result<Found, Error> {
    let remote = |cause| Error::Remote { source_name: source.name.clone(), url: pattern.to_string(), source: cause };
    let store = stores.s3(bucket).map_err(remote)?;
    let parse = |text: &str| object_store::path::Path::parse(text).map_err(|cause| remote(std::io::Error::other(cause)));
    let url = |key: &str| format!("s3://{bucket}/{key}");
    let (prefix, rest) = glob::fixed_prefix(key);
    if rest.is_empty() && !key.is_empty() && !key.ends_with('/') {
        let path = parse(key)?;
        match crate::open::in_time(store.head(&path)).await {
            Ok(meta) => {
                let root = key.rfind('/').map_or("", |slash| &key[..slash]).to_string();
                let file = File::remote(url(key), &meta);
                return Ok(Found { root, files: BTreeMap::from([(key.to_string(), file)]) });
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(remote(cause)),
        }
    }
    let prefix = prefix.trim_end_matches('/');
    let mut found = Found { root: prefix.to_string(), files: BTreeMap::new() };
    let (matcher, _) = matcher(source, pattern, rest)?;
    let folder = parse(prefix)?;
    let mut objects = store.list((!prefix.is_empty()).then_some(&folder));
    while let Some(meta) = crate::open::in_time(objects.try_next()).await.map_err(remote)? {
        let key = meta.location.as_ref();
        let relative = below(key, prefix);
        if !is_hidden(relative) && matcher.matches(relative) {
            found.files.insert(key.to_string(), File::remote(url(key), &meta));
        }
    }
    drop_folder_markers(&mut found.files);
    Ok(found)
}

/// Consoles write an empty object to stand for a folder; it is none of the data.
fn drop_folder_markers(files: &mut BTreeMap<String, File>) {
    let markers: Vec<String> = files
        .iter()
        .filter(|(key, file)| {
            let inside = format!("{key}/");
            file.num_bytes == 0 && files.range(inside.clone()..).next().is_some_and(|(next, _)| next.starts_with(&inside))
        })
        .map(|(key, _)| key.clone())
        .collect();
    for marker in markers {
        files.remove(&marker);
    }
}

/// There is nothing to list by over HTTP: each alternative of the braces is one file.
async fn list_http(source: &SourceConfig, pattern: &str, stores: &Stores) -> Result<Found, Error> {
    let setting = |problem| Error::Setting { source_name: source.name.clone(), key: "path".into(), problem };
    let mut found = Found::default();
    for url in glob::expand(pattern).map_err(|problem| setting(format!("holds `{pattern}`: {problem}")))? {
        if url.contains('*') {
            return Err(setting(format!("holds `{pattern}`: a web server cannot be searched; give the URL of each file")));
        }
        let remote = |cause| Error::Remote { source_name: source.name.clone(), url: url.clone(), source: cause };
        let (store, path) = stores.http(&url).map_err(remote)?;
        let meta = match crate::open::in_time(store.head(&path)).await {
            Ok(meta) => meta,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NothingMatched { source_name: source.name.clone(), pattern: url });
            }
            Err(cause) => return Err(remote(cause)),
        };
        let key = path.as_ref().to_string();
        let root = key.rfind('/').map_or("", |slash| &key[..slash]);
        found.root = if found.files.is_empty() { root.to_string() } else { common_folder(&found.root, root).to_string() };
        found.files.insert(key, File::remote(url, &meta));
    }
    Ok(found)
}
