//! `headwater export` and `headwater import`: files, standard input and output, and a progress bar on a terminal.

mod output;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::{self, AppError, DatabaseInUse};
use crate::config::Settings;
use crate::domain::source::Source;
use crate::lifecycle::Lifecycle;
use crate::service::hints::Signals;
use crate::service::read::Reads;
use crate::service::replicas::Replicas;
use crate::service::tail::Tail;
use crate::service::transfer::batches::{Batch, Batches, ReadError};
use crate::service::transfer::export::{ExportRequest, export};
use crate::service::transfer::import::{Import, ImportFailure};
use crate::service::transfer::seen::Seen;
use crate::store::import::ImportMode;
use crate::store::migrate::{self, MigrateOptions};
use crate::telemetry::Observer;
use output::Output;

/// The file name that means standard input or output.
const STANDARD: &str = "-";
/// Bytes of one read of a file.
const READ_AT_ONCE: usize = 256 << 10;
/// Batches that are read in advance.
const BATCHES_AHEAD: usize = 2;

/// What to export, and to where.
pub struct ExportOptions {
    pub file: PathBuf,
    /// Only messages after this global position.
    pub after: i64,
    /// Go on after the last whole line of the file.
    pub resume: bool,
    /// Only these; all if there are none.
    pub categories: Vec<String>,
}

/// What to import, and how.
pub struct ImportOptions {
    pub file: PathBuf,
    /// After what is in the store, with new global positions.
    pub append: bool,
    /// Write nothing.
    pub check: bool,
}

/// Writes the log to a file or to standard output.
pub async fn run_export(settings: &Settings, options: ExportOptions) -> Result<(), AppError> {
    let source = match options.categories.is_empty() {
        true => Source::all(),
        false => Source::several(&[], &options.categories)
            .ok_or_else(|| AppError::Failed("--categories names too many".into()))?,
    };
    let (mut out, after) = Output::open(&options).map_err(AppError::Failed)?;
    let lifecycle = Lifecycle::new();
    app::stop_on_signals(lifecycle.clone(), "stopping: --resume goes on with the file", Duration::ZERO);
    let in_use = DatabaseInUse::join(settings, lifecycle.draining()).await?;
    let database = app::open_database(settings, in_use.url())?;
    let outcome = async {
        let is_installed = database.has_schema().await.map_err(|error| AppError::Failed(error.to_string()))?;
        if !is_installed {
            let reason = "the schemas are not installed in this database: `headwater migrate` does that";
            return Err(AppError::Failed(reason.into()));
        }
        app::check_gap_rule(&database).await?;
        let (signals, tail_settings) = (Signals::default(), app::service_settings(settings).tail);
        let (tail, reader) = Tail::new(database.clone(), Replicas::none(), signals, tail_settings, Observer::new());
        lifecycle.spawn("tail", reader.run(lifecycle.stopping().clone()));
        let stopping = lifecycle.draining();
        let reads = Reads::new(database.clone(), tail.clone(), stopping.clone(), settings.page_bytes_max);
        let (bar, written) = (bar(), AtomicU64::new(0));
        let progress = |messages: usize, position: i64, end: i64| {
            let written = written.fetch_add(messages as u64, Ordering::Relaxed) + messages as u64;
            let done = |position: i64| position.saturating_sub(after.position).max(0) as u64;
            bar.set_length(done(end));
            bar.set_position(done(position));
            bar.set_message(format!("{} messages", HumanCount(written)));
        };
        let exported = export(&tail, &reads, ExportRequest { source, after }, stopping, &mut out, progress).await;
        bar.finish_and_clear();
        exported.map_err(|error| AppError::Failed(format!("the export: {error}")))?;
        out.sync().map_err(|error| AppError::Failed(format!("the export: it cannot be written: {error}")))?;
        Ok(written.into_inner())
    };
    let outcome = outcome.await;
    lifecycle.stop_agents().await;
    database.close();
    in_use.stop().await;
    eprintln!("{} messages exported", HumanCount(outcome?));
    Ok(())
}

/// Writes what a file or standard input has to the store.
pub async fn run_import(settings: &Settings, options: ImportOptions) -> Result<(), AppError> {
    // First of all, so that a wrong name is said before anything is started.
    let is_file = open(&options.file)?.1.is_some();
    let lifecycle = Lifecycle::new();
    app::stop_on_signals(
        lifecycle.clone(),
        "stopping after this batch: the same command goes on from there",
        Duration::ZERO,
    );
    let in_use = DatabaseInUse::join(settings, lifecycle.draining()).await?;
    let outcome = async {
        let database = app::open_database(settings, in_use.url())?;
        let has_messages = match options.check {
            true => database.has_messages().await.map_err(|error| AppError::Failed(error.to_string()))?,
            false => {
                let report = migrate::run(in_use.url(), &MigrateOptions::default()).await?;
                app::take_report(report)?;
                true
            }
        };
        let mode = if options.append { ImportMode::Append } else { ImportMode::Restore };
        let (patience, stopping) = (settings.database_wait, lifecycle.draining());
        let mut import = Import::new(database, mode, patience, stopping.clone(), Observer::new());
        // What a file has wrong is found before the first message is written.
        if options.check || is_file {
            let checked = pass(&mut import, &options.file, Pass::Check { has_messages }, stopping).await?;
            if options.check {
                return Ok(checked);
            }
        }
        pass(&mut import, &options.file, Pass::Write, stopping).await
    };
    let outcome = outcome.await;
    in_use.stop().await;
    let Done { messages, duplicates } = outcome?;
    match options.check {
        true => eprintln!("{} messages can be imported", HumanCount(messages)),
        false => eprintln!(
            "{} messages imported, {} were there already",
            HumanCount(messages - duplicates),
            HumanCount(duplicates)
        ),
    }
    Ok(())
}

#[derive(Default)]
struct Done {
    messages: u64,
    duplicates: u64,
}

/// What is done with each batch.
#[derive(Clone, Copy)]
enum Pass {
    /// `has_messages`: without that table, the store is empty.
    Check {
        has_messages: bool,
    },
    Write,
}

/// Reads all of it once.
async fn pass(import: &mut Import, file: &Path, pass: Pass, stopping: &CancellationToken) -> Result<Done, AppError> {
    let failed = |error: ImportFailure| AppError::Failed(format!("the import of {}: {error}", file.display()));
    let (source, size) = open(file)?;
    let mut batches = read_ahead(source);
    let bar = bar();
    bar.set_length(size.unwrap_or(0));
    let (mut done, mut seen, mut line) = (Done::default(), Seen::default(), 0);
    loop {
        // Standard input may be quiet for ever.
        let Some(batch) = stopping.run_until_cancelled(batches.recv()).await else {
            return Err(failed(ImportFailure::Stopped { line: line + 1 }));
        };
        let Some(batch) = batch else { break };
        let batch = batch.map_err(|error| failed(error.into()))?;
        match pass {
            Pass::Check { has_messages } => import.check(&batch, &mut seen, has_messages).await.map_err(failed)?,
            Pass::Write => done.duplicates += import.write(&batch).await.map_err(failed)?.duplicates as u64,
        }
        line = batch.lines.last().copied().unwrap_or(line);
        done.messages += batch.messages.len() as u64;
        bar.inc(batch.bytes);
        let what = if matches!(pass, Pass::Write) { "imported" } else { "checked" };
        bar.set_message(format!("{} messages {what}", HumanCount(done.messages)));
    }
    bar.finish_and_clear();
    Ok(done)
}

/// On a thread of its own, which a read of standard input may keep for ever.
fn read_ahead(source: Box<dyn BufRead + Send>) -> mpsc::Receiver<Result<Batch, ReadError>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    std::thread::spawn(move || {
        for batch in Batches::new(source) {
            if sender.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Shown on a terminal only.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg}  {elapsed_precise}, {eta} to go");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What a name means, and its size if it is a file, which can be read twice.
fn open(file: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), AppError> {
    if file == Path::new(STANDARD) {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let cannot = |error: io::Error| AppError::Failed(format!("{} cannot be read: {error}", file.display()));
    let opened = File::open(file).map_err(cannot)?;
    let about = opened.metadata().map_err(cannot)?;
    if about.is_dir() {
        return Err(cannot(io::ErrorKind::IsADirectory.into()));
    }
    let size = about.is_file().then_some(about.len());
    Ok((Box::new(BufReader::with_capacity(READ_AT_ONCE, opened)), size))
}
