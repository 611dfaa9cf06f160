//! A run from recipe to finished folder: the stages in order, each resumed where it is done, then the manifest and its checks.

use crate::boundary::{Done, RunFolder, remove, write_atomically};
use crate::context::{Context, Progress};
use crate::error::Error;
use crate::recipe::Recipe;
use crate::session::Session;
use crate::{corpus, documents, exact, near, near_index, tokens};
use osler_datasets::list::{FileEntry, list};
use osler_datasets::open::{StorageConfig, Stores};
use osler_schemas::manifest::{self, Counts, CurvePoint, Manifest, StageRow};
use osler_tokens::stream::StreamedChunk;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xxhash_rust::xxh3::xxh3_128;

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's folder.
    pub out: PathBuf,
    pub recipe: Recipe,
    /// Folder that relative paths in the recipe start from.
    pub base: PathBuf,
    /// `AWS_*` settings of the environment, where the recipe's `[storage]` states none.
    pub storage_environment: BTreeMap<String, String>,
    pub progress: Arc<dyn Progress>,
    pub cancelled: Arc<AtomicBool>,
}

/// Runs the recipe, or what is left of it.
///
/// # Errors
/// [`Error`]; what is finished stays, and the same call goes on from there.
pub fn run(options: &Options) -> Result<Manifest, Error> {
    let runtime = runtime(&options.recipe)?;
    runtime.block_on(run_async(options, &runtime))
}

/// The threads of a run.
pub(crate) fn runtime(recipe: &Recipe) -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(recipe.num_threads())
        // Each partition of each operator holds a thread while its stream lives, and file reads need some beside them.
        .max_blocking_threads(512 + 32 * recipe.num_threads())
        .enable_all()
        .build()
        .map_err(|error| Error::User(format!("threads cannot be started: {error}")))
}

/// Runs the recipe as far as its corpus, or what is left of that, and gives the packed chunks of it to `consumer`, in the order and with
/// the bytes that shards would have, without writing any. `Break` ends it.
///
/// # Errors
/// [`Error`], also for a packing that cannot be streamed.
pub fn stream(options: &Options, consumer: impl FnMut(StreamedChunk<'_>) -> ControlFlow<()>) -> Result<tokens::Streamed, Error> {
    let runtime = runtime(&options.recipe)?;
    runtime.block_on(async {
        let prepared = Prepared::new(options, &runtime).await?;
        prepared.to_corpus(options).await?;
        tokens::stream(&prepared.session, &options.recipe, prepared.tokenizer, consumer).await
    })
}

/// A run that may begin: its folder locked, its files listed, its tokenizer loaded.
struct Prepared {
    session: Session,
    files: Vec<FileEntry>,
    tokenizer: Option<tokens::Loaded>,
    prints: Fingerprints,
    _lock: File,
}

impl Prepared {
    async fn new(options: &Options, runtime: &tokio::runtime::Runtime) -> Result<Self, Error> {
        let recipe = &options.recipe;
        let folder = RunFolder { root: options.out.clone() };
        let lock = lock(&folder)?;
        let (session, files) = prepare(options, folder.clone(), runtime.handle()).await?;
        // One that cannot be used is refused before anything of an earlier run is touched.
        let tokenizer = tokens::load(recipe, &options.base)?;
        let prints = Fingerprints::new(options, &files, tokenizer.as_ref());
        keep_other_runs(options)?;
        retire_manifest(&folder, &prints)?;
        Ok(Self { session, files, tokenizer, prints, _lock: lock })
    }

    /// The stages up to the corpus: what parsing, clustering and cleaning left.
    async fn to_corpus(&self, Options { recipe, base, .. }: &Options) -> Result<[Done; 3], Error> {
        let Self { session, files, prints, .. } = self;
        let parsed = documents::run(session, recipe, files, &prints.documents).await?;
        let clusters = near::run(session, recipe, base, &prints.near).await?;
        near_index::run(session, recipe, &prints.near).await?;
        let spans = exact::run(session, recipe, &prints.exact).await?;
        if session.folder.finished(corpus::BOUNDARY, &prints.corpus).is_none() {
            // Tokens of the corpus that is replaced now.
            tokens::retire(&session.folder)?;
        }
        let cleaned = corpus::run(session, recipe, &prints.corpus, [&clusters, &spans]).await?;
        Ok([parsed, clusters, cleaned])
    }
}

async fn run_async(options: &Options, runtime: &tokio::runtime::Runtime) -> Result<Manifest, Error> {
    let Options { recipe, .. } = options;
    let prepared = Prepared::new(options, runtime).await?;
    let [parsed, clusters, cleaned] = prepared.to_corpus(options).await?;
    let Prepared { session, files, tokenizer, prints, _lock } = prepared;
    let folder = session.folder.clone();
    let tokenized = tokens::run(&session, recipe, tokenizer, &prints.stream).await?;
    let stages = [&parsed, &cleaned, &tokenized].into_iter().flat_map(|done| done.stages.clone()).collect();
    let s_curve: Vec<CurvePoint> = serde_json::from_value(clusters.facts["s_curve"].clone()).unwrap_or_default();
    let manifest = Manifest {
        format: manifest::FORMAT.to_string(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        recipe: serde_json::to_value(recipe).map_err(|error| Error::Internal(error.to_string()))?,
        recipe_hash: recipe.hash(),
        inputs: parsed.inputs.clone(),
        stages,
        s_curve,
        complete: true,
    };
    check(&manifest, &files)?;
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Internal(error.to_string()))?;
    write_atomically(&folder.path("run.json"), &json)?;
    let spill = folder.path("work/spill");
    fs::remove_dir_all(&spill).map_err(|error| Error::io(&spill, error))?;
    Ok(manifest)
}

/// Refuses what would destroy a run that this one is not about: an index that is read may not lie in the folder that is written, and a
/// finished run of other sources is not replaced.
fn keep_other_runs(Options { recipe, base, out, .. }: &Options) -> Result<(), Error> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    for path in &recipe.against {
        if real(&base.join(path)) == real(out) {
            let problem = "`against` names the folder of this very run, whose index it would replace: give this run another --out";
            return Err(Error::User(format!("{}: {problem}", out.display())));
        }
    }
    let Ok(finished) = crate::manifest(out) else { return Ok(()) };
    // A source is known by its name, or by any of its paths: recipes change, and are run again on more.
    let sources = |recipe: &serde_json::Value| -> BTreeSet<String> {
        let all = recipe["source"].as_array().into_iter().flatten();
        let known = |source: &serde_json::Value| {
            let paths = source["path"].as_array().into_iter().flatten().map(|path| format!("path {path}"));
            paths.chain([format!("name {}", source["name"])]).collect::<Vec<_>>()
        };
        all.flat_map(known).collect()
    };
    let own = serde_json::to_value(recipe).map_err(|error| Error::Internal(error.to_string()))?;
    if sources(&finished.recipe).is_disjoint(&sources(&own)) {
        let name = finished.recipe["name"].as_str().unwrap_or_default();
        let problem =
            format!("holds a finished run (`{name}`) of other sources: give this run another --out or `name`, or delete that one");
        return Err(Error::User(format!("{}: {problem}", out.display())));
    }
    Ok(())
}

/// Takes the manifest and report of another recipe away before anything of it is replaced.
fn retire_manifest(folder: &RunFolder, prints: &Fingerprints) -> Result<(), Error> {
    if prints.boundaries().iter().all(|(boundary, print)| folder.finished(boundary, print).is_some()) {
        return Ok(());
    }
    ["run.json", "report.html", "report.json"].iter().try_for_each(|name| remove(&folder.path(name)))
}

/// The session and the listed files.
pub(crate) async fn prepare(
    options: &Options,
    folder: RunFolder,
    handle: &tokio::runtime::Handle,
) -> Result<(Session, Vec<FileEntry>), Error> {
    let recipe = &options.recipe;
    let user = |error: &dyn std::error::Error| Error::User(crate::parse::chain(error));
    let storage = StorageConfig { environment: options.storage_environment.clone(), ..recipe.storage.clone() };
    let stores = Arc::new(Stores::new(options.base.clone(), storage, handle.clone()));
    let mut files = Vec::new();
    for (index, source) in recipe.source.iter().enumerate() {
        source.validate().map_err(|error| user(&error))?;
        let index = u32::try_from(index).map_err(|_| Error::User("more sources than a recipe can have".into()))?;
        let mut listed = list(source, index, &stores).await.map_err(|error| user(&error))?;
        if !listed.is_empty() && leave_out_own(&mut listed, &options.out) {
            let problem =
                format!("all files of source `{}` lie in the folder that this run writes, {}", source.name, options.out.display());
            return Err(Error::User(format!("{problem}: give the run another --out")));
        }
        files.extend(listed);
    }
    let context = Arc::new(Context::new(stores, options.progress.clone(), options.cancelled.clone()));
    let session = Session::new(
        folder.clone(),
        context,
        folder.path("work/spill"),
        (recipe.memory_bytes()?, recipe.num_threads(), recipe.batch_rows),
    )?;
    Ok((session, files))
}

/// Leaves out what the run itself writes, where its folder lies below a source's, however that is written; whether nothing is left.
fn leave_out_own(files: &mut Vec<FileEntry>, out: &Path) -> bool {
    let Ok(out) = fs::canonicalize(out) else { return false };
    // A folder has many files, and asking the system about each would take long.
    let mut folders: HashMap<PathBuf, bool> = HashMap::new();
    let mut is_own = |file: &FileEntry| -> bool {
        let Some(folder) = url::Url::parse(&file.url).ok().and_then(|url| Some(url.to_file_path().ok()?.parent()?.to_path_buf())) else {
            return false;
        };
        let is_below = |folder: &Path| fs::canonicalize(folder).is_ok_and(|folder| folder.starts_with(&out));
        *folders.entry(folder).or_insert_with_key(|folder| is_below(folder))
    };
    files.retain(|file| !is_own(file));
    files.is_empty()
}

/// What each boundary's output depends on. A recipe that changes a later stage leaves the earlier ones done.
pub(crate) struct Fingerprints {
    documents: String,
    near: String,
    exact: String,
    corpus: String,
    /// The token stream, however it is packed.
    stream: String,
    tokens: String,
}

impl Fingerprints {
    pub(crate) fn new(Options { recipe, base, .. }: &Options, files: &[FileEntry], tokenizer: Option<&tokens::Loaded>) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let listing: Vec<_> = files.iter().map(|file| (&file.source, &file.path, file.num_bytes, &file.version)).collect();
        let filters = |last: crate::recipe::FilterPlace| -> Vec<_> {
            recipe.filter.iter().filter(|filter| filter.after as u8 <= last as u8).collect()
        };
        use crate::recipe::FilterPlace::{ExactDuplicates, LengthFilter, NearDuplicates};
        // The tokenizer's content, not only its name.
        let tokenizer = tokenizer.map(|loaded| format!("{:032x}", loaded.tokenizer.identity().xxh3));
        let documents = hash(&(version, &recipe.source, &recipe.limits, &recipe.length_filter, filters(LengthFilter), listing));
        let near = hash(&(&documents, &recipe.near_duplicates, near_index::fingerprint(recipe, base)));
        let exact = hash(&(&near, &recipe.exact_duplicates, filters(NearDuplicates)));
        let corpus = hash(&(&exact, filters(ExactDuplicates)));
        let stream = hash(&(&corpus, &recipe.tokenizer, tokenizer));
        let tokens = tokens::fingerprint(&stream, recipe);
        Self { documents, near, exact, corpus, stream, tokens }
    }

    /// Each boundary with its fingerprint, in the order of the run.
    pub(crate) fn boundaries(&self) -> [(&'static str, &str); 5] {
        [
            (documents::BOUNDARY, &self.documents),
            (near::BOUNDARY, &self.near),
            (exact::BOUNDARY, &self.exact),
            (corpus::BOUNDARY, &self.corpus),
            (tokens::BOUNDARY, &self.tokens),
        ]
    }
}

pub(crate) fn hash(parts: &impl serde::Serialize) -> String {
    let json = serde_json::to_vec(parts).unwrap_or_default();
    format!("{:032x}", xxh3_128(&json))
}

/// Makes the folder and takes it for this process; the lock goes with the process, however it ends.
pub(crate) fn lock(folder: &RunFolder) -> Result<File, Error> {
    let work = folder.path("work");
    if is_foreign(&folder.root) {
        return Err(Error::User(format!(
            "{} holds files that no run of Osler made; name a new or empty folder as OUT",
            folder.root.display()
        )));
    }
    fs::create_dir_all(work.join("done")).map_err(|error| Error::io(&work, error))?;
    let path = work.join("lock");
    let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::User(format!(
                "another run is at work in {}; wait for it, or name another folder as OUT",
                folder.root.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(Error::io(&path, error)),
    }
    // A new run of a changed recipe must not stand beside the old run's manifest.
    let spill = work.join("spill");
    if spill.exists() {
        fs::remove_dir_all(&spill).map_err(|error| Error::io(&spill, error))?;
    }
    Ok(file)
}

fn is_foreign(root: &Path) -> bool {
    // The lock is the first file a run makes; `work/` may have been deleted once a run was finished.
    let ours = root.join("work/lock").is_file() || crate::manifest(root).is_ok();
    !ours && fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some())
}

/// The run's own audit: counts add up in every stage and between stages, and every listed file was read.
fn check(manifest: &Manifest, files: &[FileEntry]) -> Result<(), Error> {
    for stage in &manifest.stages {
        let wrong = !stage.counts.add_up() || !stage.sources.values().all(Counts::add_up);
        if wrong {
            return Err(Error::Internal(format!("stage {}: records or bytes in are not those out and dropped", stage.name)));
        }
    }
    for pair in manifest.stages.windows(2) {
        let (before, after): (&StageRow, &StageRow) = (&pair[0], &pair[1]);
        if before.counts.records_out != after.counts.records_in || before.counts.bytes_out != after.counts.bytes_in {
            return Err(Error::Internal(format!(
                "{} gave out {} records, {} took in {}",
                before.name, before.counts.records_out, after.name, after.counts.records_in
            )));
        }
    }
    if manifest.inputs.len() != files.len() {
        return Err(Error::Internal(format!("{} files were listed, {} are in the manifest", files.len(), manifest.inputs.len())));
    }
    Ok(())
}
