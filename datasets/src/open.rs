//! Opens files where they lie (this machine, S3, a web server) as one kind of blocking, decompressed stream.
//!
//! Compression is told by a file's first bytes, not by its name. While a stream is read, the bytes as stored are counted and hashed.

use crate::list::FileEntry;
use crate::ranged::{Ranged, RemoteFile};
use bytes::{Buf, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

/// Longest silence of a server before it counts as gone.
const SILENCE_SECONDS_MAX: u64 = 60;
/// What a file is read in. Larger gains nothing and leaves the L2 cache.
const BUFFER_BYTES: usize = 256 << 10;
/// What the network's small pieces are gathered into, so that handing them over costs little.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks that wait for the reader; with the one being filled and the one being read, 4 MiB per open file.
const CHUNKS_AHEAD: usize = 2;

/// The table `[storage]` of a recipe: how to reach S3. What is left out is taken from `environment`, then from the machine's role.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Region of the buckets; default: the environment's, then `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of a server that speaks S3; default: Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whether S3 may be spoken without TLS; default no. A source given as `http://…` is its own permission.
    pub allow_http: bool,
    /// Whether requests go unsigned, as public buckets want; default no.
    pub anonymous: bool,
    /// Better left to the environment. Never written to `run.json`.
    #[serde(skip_serializing)]
    pub access_key_id: Option<String>,
    /// Better left to the environment. Never written to `run.json`.
    #[serde(skip_serializing)]
    pub secret_access_key: Option<String>,
    /// For temporary credentials. Never written to `run.json`.
    #[serde(skip_serializing)]
    pub session_token: Option<String>,
    /// The `AWS_*` variables of the process, handed in by the program.
    #[serde(skip)]
    pub environment: BTreeMap<String, String>,
}

impl std::fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageConfig")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("allow_http", &self.allow_http)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

/// Where a pattern points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    Local(PathBuf),
    S3 { bucket: String, key: String },
    Http { authority: String },
}

impl Location {
    /// What files must have in common for their paths to be comparable.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Local(_) => "file".into(),
            Self::S3 { bucket, .. } => format!("s3://{bucket}"),
            Self::Http { authority } => authority.clone(),
        }
    }
}

/// The places that files come from. One connection pool per bucket or server, made when first needed.
pub struct Stores {
    base: PathBuf,
    storage: StorageConfig,
    runtime: tokio::runtime::Handle,
    remote: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Stores {
    /// Stores whose relative paths start at `base`. Remote transfers run on `runtime`, whose I/O and time drivers must be enabled; a
    /// thread that reads must not be one that the runtime needs to make progress.
    pub fn new(base: impl Into<PathBuf>, storage: StorageConfig, runtime: tokio::runtime::Handle) -> Self {
        Self { base: base.into(), storage, runtime, remote: Mutex::default() }
    }

    /// Opens `file` and undoes its compression.
    ///
    /// # Errors
    /// [`io::Error`] that names the file. Reading gives such errors too, with the byte.
    pub fn open(&self, file: &FileEntry) -> io::Result<Input> {
        let fault = |cause: io::Error| io::Error::new(cause.kind(), Fault { url: file.url.clone(), byte: None, doing: "opening", cause });
        let raw = match self.locate(&file.url).map_err(|problem| fault(io::Error::other(problem)))? {
            Location::Local(path) => Source::Local(std::fs::File::open(path).map_err(fault)?),
            Location::S3 { bucket, key } => {
                let path = object_store::path::Path::parse(key).map_err(|cause| fault(io::Error::other(cause)))?;
                self.fetch(self.s3(&bucket).map_err(fault)?, path, file.num_bytes)
            }
            Location::Http { .. } => {
                let (store, path) = self.http(&file.url).map_err(fault)?;
                self.fetch(store, path, file.num_bytes)
            }
        };
        Input::new(file.url.clone(), raw)
    }

    /// Opens `file` for reading at random, as stored.
    ///
    /// # Errors
    /// [`io::Error`] that names the file.
    pub fn open_ranged(&self, file: &FileEntry) -> io::Result<Ranged> {
        let fault = |cause: io::Error| io::Error::new(cause.kind(), Fault { url: file.url.clone(), byte: None, doing: "opening", cause });
        let (store, path) = match self.locate(&file.url).map_err(|problem| fault(io::Error::other(problem)))? {
            Location::Local(path) => {
                let file = std::fs::File::open(path).map_err(fault)?;
                return Ok(Ranged::Local(file));
            }
            Location::S3 { bucket, key } => {
                let path = object_store::path::Path::parse(key).map_err(|cause| fault(io::Error::other(cause)))?;
                (self.s3(&bucket).map_err(fault)?, path)
            }
            Location::Http { .. } => self.http(&file.url).map_err(fault)?,
        };
        let runtime = self.runtime.clone();
        Ok(Ranged::Remote(Arc::new(RemoteFile::new(file.url.clone(), store, path, file.num_bytes, runtime))))
    }

    /// Tells where `pattern` points, without looking.
    pub(crate) fn locate(&self, pattern: &str) -> Result<Location, String> {
        match pattern.split_once("://") {
            // Without its `.` components, so that equal folders are equal text.
            None => Ok(Location::Local(self.base.join(pattern).components().collect())),
            Some(("file", rest)) => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err("names a machine in a file URL; write `file:///…`".into());
                }
                Ok(Location::Local(PathBuf::from(percent_decode(path)?)))
            }
            Some(("s3" | "s3a", rest)) => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || crate::glob::is_pattern(bucket) {
                    return Err("needs the name of one bucket: `s3://bucket/key`".into());
                }
                Ok(Location::S3 { bucket: bucket.into(), key: key.into() })
            }
            Some((scheme @ ("http" | "https"), rest)) => {
                let authority = rest.split(['/', '?']).next().unwrap_or(rest);
                Ok(Location::Http { authority: format!("{scheme}://{authority}") })
            }
            Some((scheme, _)) => Err(format!("has the unknown scheme `{scheme}`; known are file, s3, http and https")),
        }
    }

    /// The store of an S3 bucket.
    pub(crate) fn s3(&self, bucket: &str) -> io::Result<Arc<dyn ObjectStore>> {
        self.cached(format!("s3://{bucket}"), || {
            let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
            for (name, value) in &self.storage.environment {
                if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            let storage = &self.storage;
            for (key, value) in [
                (AmazonS3ConfigKey::Region, &storage.region),
                (AmazonS3ConfigKey::Endpoint, &storage.endpoint),
                (AmazonS3ConfigKey::AccessKeyId, &storage.access_key_id),
                (AmazonS3ConfigKey::SecretAccessKey, &storage.secret_access_key),
                (AmazonS3ConfigKey::Token, &storage.session_token),
            ] {
                if let Some(value) = value {
                    builder = builder.with_config(key, value);
                }
            }
            if storage.anonymous {
                builder = builder.with_skip_signature(true);
            }
            let allow_http = storage.allow_http || storage.environment.get("AWS_ALLOW_HTTP").is_some_and(|value| value == "true");
            Ok(Arc::new(builder.with_client_options(client_options(allow_http)).build().map_err(io_error)?))
        })
    }

    /// The store of a web server, and the path of `url` on it. A query stays with the store, so that signed URLs work.
    pub(crate) fn http(&self, url: &str) -> io::Result<(Arc<dyn ObjectStore>, object_store::path::Path)> {
        let url = url.split('#').next().unwrap_or(url);
        let (place, query) = url.split_once('?').map_or((url, ""), |(place, query)| (place, query));
        let (scheme, rest) = place.split_once("://").unwrap_or(("https", place));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = percent_decode(path).map_err(io::Error::other)?;
        let path = object_store::path::Path::parse(&path).map_err(io::Error::other)?;
        let base = format!("{scheme}://{authority}/{}{query}", if query.is_empty() { "" } else { "?" });
        let store = self.cached(base.clone(), || {
            let options = client_options(scheme == "http");
            Ok(Arc::new(HttpBuilder::new().with_url(&base).with_client_options(options).build().map_err(io_error)?))
        })?;
        Ok((store, path))
    }

    fn cached(&self, name: String, make: impl FnOnce() -> io::Result<Arc<dyn ObjectStore>>) -> io::Result<Arc<dyn ObjectStore>> {
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = remote.get(&name) {
            return Ok(Arc::clone(store));
        }
        let store = make()?;
        remote.insert(name, Arc::clone(&store));
        Ok(store)
    }

    /// Starts a transfer that keeps a few chunks ahead of its reader and ends when the reader is dropped.
    fn fetch(&self, store: Arc<dyn ObjectStore>, path: object_store::path::Path, num_bytes: u64) -> Source {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        self.runtime.spawn(async move {
            if let Err(cause) = transfer(&*store, &path, num_bytes, &sender).await {
                // Nobody listens any more: then nobody wants to know.
                let _ = sender.send(Err(cause)).await;
            }
        });
        Source::Remote { chunks, current: Bytes::new(), ended: false }
    }
}

/// Sends an object's bytes in chunks, and an error at the end if there were fewer than listed.
async fn transfer(
    store: &dyn ObjectStore,
    path: &object_store::path::Path,
    num_bytes: u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut stream = in_time(store.get(path)).await?.into_stream();
    let mut gathered = BytesMut::with_capacity(CHUNK_BYTES);
    let mut total = 0u64;
    while let Some(piece) = in_time(stream.try_next()).await? {
        total += piece.len() as u64;
        gathered.extend_from_slice(&piece);
        if gathered.len() >= CHUNK_BYTES && sender.send(Ok(gathered.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
    if !gathered.is_empty() && sender.send(Ok(gathered.freeze())).await.is_err() {
        return Ok(());
    }
    if total < num_bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the server sent {total} of {num_bytes} bytes")));
    }
    // The end is said, so that a transfer that was cancelled cannot pass for a short file.
    let _ = sender.send(Ok(Bytes::new())).await;
    Ok(())
}

/// Waits for `answer`, but not forever.
pub(crate) async fn in_time<T>(answer: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(Duration::from_secs(SILENCE_SECONDS_MAX), answer).await {
        Ok(answer) => answer.map_err(io_error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {SILENCE_SECONDS_MAX} s"))),
    }
}

/// Blocks this thread until `future` is done, inside a runtime's thread too, where the runtime's own way of blocking would panic.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A whole object may take hours: what is bounded is silence, by [`in_time`].
fn client_options(allow_http: bool) -> ClientOptions {
    ClientOptions::new().with_allow_http(allow_http).with_timeout_disabled().with_connect_timeout(Duration::from_secs(10))
}

fn io_error(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// An open file: its decompressed bytes.
pub struct Input {
    url: String,
    body: Body,
}

enum Body {
    Plain(BufReader<Raw>),
    Gzip(BufReader<MultiGzDecoder<BufReader<Raw>>>),
    Zstd(BufReader<zstd::Decoder<'static, BufReader<Raw>>>),
}

/// What was read of a file, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub num_bytes: u64,
    /// XXH3-128, 32 lower-case hexadecimal digits.
    pub hash: String,
}

impl Input {
    fn new(url: String, source: Source) -> io::Result<Self> {
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, Raw { source, hasher: Xxh3::new(), num_bytes: 0 });
        let start = match raw.fill_buf() {
            Ok(start) => [0, 1, 2, 3].map(|at| start.get(at).copied().unwrap_or(0)),
            Err(cause) => return Err(io::Error::new(cause.kind(), Fault { url, byte: Some(0), doing: "reading", cause })),
        };
        let body = match start {
            [0x1f, 0x8b, 8, _] => Body::Gzip(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw))),
            // A frame, or the skippable frame that some parallel compressors put first.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                Body::Zstd(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(raw)?))
            }
            _ => Body::Plain(raw),
        };
        Ok(Self { url, body })
    }

    /// Whether the file, which must not have been read from yet, starts with `magic`.
    pub fn starts_with(&self, magic: &[u8]) -> bool {
        matches!(&self.body, Body::Plain(body) if body.buffer().starts_with(magic))
    }

    /// Bytes taken so far, as stored; those that wait in the buffer do not count.
    pub fn num_bytes(&self) -> u64 {
        let raw = match &self.body {
            Body::Plain(raw) => raw,
            Body::Gzip(decoder) => decoder.get_ref().get_ref(),
            Body::Zstd(decoder) => decoder.get_ref().get_ref(),
        };
        raw.get_ref().num_bytes - raw.buffer().len() as u64
    }

    /// Reads what is left as stored, without decompressing it, and gives the size and hash of the whole file.
    ///
    /// # Errors
    /// [`io::Error`] that names file and byte.
    pub fn finish(mut self) -> io::Result<Stored> {
        loop {
            match self.raw().fill_buf() {
                Ok([]) => break,
                Ok(bytes) => {
                    let num_bytes = bytes.len();
                    self.raw().consume(num_bytes);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.fault(cause)),
            }
        }
        let raw = self.raw().get_ref();
        Ok(Stored { num_bytes: raw.num_bytes, hash: format!("{:032x}", raw.hasher.digest128()) })
    }

    fn raw(&mut self) -> &mut BufReader<Raw> {
        match &mut self.body {
            Body::Plain(raw) => raw,
            Body::Gzip(decoder) => decoder.get_mut().get_mut(),
            Body::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }

    /// Adds to an error which file it was and near which of its stored bytes.
    fn fault(&mut self, cause: io::Error) -> io::Error {
        let doing = match &self.body {
            Body::Plain(_) => "reading",
            Body::Gzip(_) => "the gzip stream is truncated or corrupt (fetch the file again)",
            Body::Zstd(_) => "the zstd stream is truncated or corrupt (fetch the file again)",
        };
        let raw = self.raw();
        let byte = raw.get_ref().num_bytes - raw.buffer().len() as u64;
        io::Error::new(cause.kind(), Fault { url: self.url.clone(), byte: Some(byte), doing, cause })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.body {
            Body::Plain(body) => body.read(buffer),
            Body::Gzip(body) => body.read(buffer),
            Body::Zstd(body) => body.read(buffer),
        };
        result.map_err(|cause| self.fault(cause))
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Asked twice because the borrow of a failed `fill_buf` would last as long as that of a good one; the second finds it buffered.
        let result = match &mut self.body {
            Body::Plain(body) => body.fill_buf().map(drop),
            Body::Gzip(body) => body.fill_buf().map(drop),
            Body::Zstd(body) => body.fill_buf().map(drop),
        };
        result.map_err(|cause| self.fault(cause))?;
        Ok(match &self.body {
            Body::Plain(body) => body.buffer(),
            Body::Gzip(body) => body.buffer(),
            Body::Zstd(body) => body.buffer(),
        })
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.body {
            Body::Plain(body) => body.consume(amount),
            Body::Gzip(body) => body.consume(amount),
            Body::Zstd(body) => body.consume(amount),
        }
    }
}

/// The stored bytes, counted and hashed on their way.
struct Raw {
    source: Source,
    hasher: Xxh3,
    num_bytes: u64,
}

enum Source {
    Local(std::fs::File),
    Remote { chunks: mpsc::Receiver<io::Result<Bytes>>, current: Bytes, ended: bool },
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let num_bytes = match &mut self.source {
            Source::Local(file) => file.read(buffer)?,
            Source::Remote { chunks, current, ended } => {
                if current.is_empty() && !*ended {
                    *current = wait(chunks.recv()).ok_or_else(|| io::Error::other("the transfer was cancelled"))??;
                    *ended = current.is_empty();
                }
                let num_bytes = buffer.len().min(current.len());
                buffer[..num_bytes].copy_from_slice(&current[..num_bytes]);
                current.advance(num_bytes);
                num_bytes
            }
        };
        self.hasher.update(&buffer[..num_bytes]);
        self.num_bytes += num_bytes as u64;
        Ok(num_bytes)
    }
}

/// An I/O error with its place.
#[derive(Debug, thiserror::Error)]
#[error("`{url}`{}: {doing}: {cause}", at(*byte))]
pub(crate) struct Fault {
    pub(crate) url: String,
    pub(crate) byte: Option<u64>,
    pub(crate) doing: &'static str,
    pub(crate) cause: io::Error,
}

fn at(byte: Option<u64>) -> String {
    byte.map_or_else(String::new, |byte| format!(" at byte {byte}"))
}

/// A `file://` URL of an absolute path.
pub(crate) fn file_url(path: &str) -> String {
    let mut url = String::with_capacity(path.len() + 16);
    url.push_str("file://");
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 once its percent signs are undone".into())
}
