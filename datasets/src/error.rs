//! Why sources could not be listed or opened. No variant carries document text.

/// A fault of the recipe, of storage, or of what lies there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("source `{source_name}`: `{key}` {problem}")]
    Setting { source_name: String, key: String, problem: String },
    /// A pattern with no file behind it.
    #[error("source `{source_name}`: nothing matches `{pattern}`; check the path, or remove it from the recipe")]
    NothingMatched { source_name: String, pattern: String },
    /// Two files that would have the same path below the source's root.
    #[error("source `{source_name}`: `{first}` and `{second}` both come to stand at `{path}`; make two sources of them")]
    Collision { source_name: String, path: String, first: String, second: String },
    /// A folder or file of this machine that could not be looked at.
    #[error("source `{source_name}`: cannot look at `{path}`")]
    Local { source_name: String, path: String, source: std::io::Error },
    /// Remote storage that did not answer as it should.
    #[error("source `{source_name}`: cannot look at `{url}`")]
    Remote { source_name: String, url: String, source: std::io::Error },
}
