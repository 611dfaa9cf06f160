//! `osler`: from papers, textbooks and notes to a corpus, token shards and a trained model. This crate is the only part that prints, reads the environment
//! or exits.

mod arguments;
mod commands;
mod generate;
mod progress;
mod ranks;
mod render;
mod tokens;
mod train;

use std::process::ExitCode;

/// Keeps a run to its memory budget: batches of every size come and go on several threads, and the C library's allocator held on to three
/// times what was in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A panic's message may quote the text at hand; its place says enough.
    std::panic::set_hook(Box::new(|panic| {
        use std::io::Write;
        let place = panic.location().map_or_else(String::new, |place| format!("{}:{}", place.file(), place.line()));
        let _ = writeln!(std::io::stderr(), "error: this is a fault of Osler, please report it: panic at {place}");
    }));
    let outcome = std::panic::catch_unwind(|| arguments::parse().and_then(|arguments| commands::run(&arguments)));
    match outcome {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(failure)) => failure.report(),
        Err(_) => ExitCode::from(3),
    }
}

/// What ends the program with something to say.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The user's input is wrong: exit code 2.
    pub fn user(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 2 }
    }

    /// Whether a reader went away, which is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        self.code == 0
    }

    fn report(self) -> ExitCode {
        use std::io::Write;
        // A reader that went away, such as `head`, has what it wanted.
        if self.code == 0 {
            return ExitCode::SUCCESS;
        }
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "error: {}", self.message);
        if let Some(hint) = self.hint {
            let _ = writeln!(stderr, "hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

impl From<osler_engine::Error> for Failure {
    fn from(error: osler_engine::Error) -> Self {
        Self { message: error.to_string(), hint: error.hint(), code: error.exit_code() }
    }
}

impl From<osler_train::TrainError> for Failure {
    fn from(error: osler_train::TrainError) -> Self {
        let code = if matches!(error, osler_train::TrainError::Stopped { .. }) { 130 } else { 2 };
        Self { message: error.to_string(), hint: None, code }
    }
}

impl From<osler_engine::recipe::RecipeError> for Failure {
    fn from(error: osler_engine::recipe::RecipeError) -> Self {
        Self::from(osler_engine::Error::from(error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let code = if error.kind() == std::io::ErrorKind::BrokenPipe { 0 } else { 2 };
        Self { message: error.to_string(), hint: None, code }
    }
}
