//! `headwater backup`: receives changes as they come, and takes a base backup now and then, until it is told to stop.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::directory::{Base, Complete, Directory, StoreFacts};
use super::receiver::{Program, RECEIVER, receive, tells_of_a_gap};
use super::{BackupError, base, wal};
use crate::app::{self, AppError, DatabaseInUse};
use crate::config::Settings;
use crate::domain::time::Timestamp;
use crate::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings, Tools};
use crate::lifecycle::Lifecycle;
use crate::store::backup::WalState;
use crate::store::{Database, StoreError};

/// How often it is looked how far the server and the backup are.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);
/// How often it is noted up to when all changes are there.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);
/// The longest that it may take until changes are received, and until the last ones are.
const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(60);
/// The pauses after failures: the first, and the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How far the server's clock may be ahead of ours, in microseconds.
const CLOCK_SLACK_MICROS: i64 = 60_000_000;
/// The pause after a base backup that failed.
const BASE_PAUSE: Duration = Duration::from_secs(10);
const PROGRAMS: [&str; 3] = [RECEIVER, "pg_basebackup", "pg_verifybackup"];

/// Where to, and how long.
pub struct BackupOptions {
    pub to: PathBuf,
    /// One base backup, and the changes up to its end.
    pub once: bool,
}

/// Backs the embedded server up.
pub async fn run_backup(settings: &Settings, options: BackupOptions) -> Result<(), AppError> {
    refuse_a_given_database(settings, "backup")?;
    let lifecycle = Lifecycle::new();
    app::stop_on_signals(
        lifecycle.clone(),
        "stopping: what was received stays, and the next backup goes on from there",
        Duration::ZERO,
    );
    let embedded = app::embedded_settings(settings);
    // Where a service runs, it is its server; for one backup the server is started for that long.
    let in_use = if options.once { Some(DatabaseInUse::join(settings, lifecycle.draining()).await?) } else { None };
    let (settings, handle) = (settings.clone(), Handle::current());
    // On a thread of its own: PostgreSQL's programs are interrupted when it ends.
    let working = tokio::task::spawn_blocking(move || {
        let directory = Directory::open(&options.to)?;
        Backup { settings, embedded, once: options.once, directory, lifecycle, handle }.run()
    });
    let outcome = working.await;
    if let Some(in_use) = in_use {
        in_use.stop().await;
    }
    match outcome {
        Ok(done) => done.map_err(|error| AppError::Failed(format!("the backup: {error}"))),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Another server has its own ways.
pub fn refuse_a_given_database(settings: &Settings, what: &str) -> Result<(), AppError> {
    match settings.given_database() {
        None => Ok(()),
        Some(_) => Err(AppError::Failed(format!(
            "headwater {what} is for the embedded PostgreSQL, and a database URL is given (--database-url, \
             HEADWATER_DATABASE_URL, DATABASE_URL or --direct-database-url): use that server's own backups (pg_basebackup, pgBackRest, Barman)"
        ))),
    }
}

struct Backup {
    settings: Settings,
    embedded: EmbeddedSettings,
    once: bool,
    directory: Directory,
    lifecycle: Lifecycle,
    handle: Handle,
}

/// One time of being connected: from the first look to a failure, or the end.
struct Stretch<'a> {
    backup: &'a Backup,
    tools: Tools,
    url: String,
    database: Database,
    run: String,
    receiver: Program,
    noted: Option<Instant>,
    /// The last base backup failed, and is tried again then.
    not_before: Option<Instant>,
}

impl Backup {
    fn run(self) -> Result<(), BackupError> {
        let mut pause = PAUSE_FIRST;
        let mut waits = false;
        while !self.lifecycle.is_draining() {
            let began = Instant::now();
            let outcome = match self.block_on(EmbeddedPostgres::running_url(&self.embedded)) {
                Ok(Some(url)) => self.stretch(url),
                // It was there before, and is not waited for: one backup is for what runs now.
                Ok(None) if self.once => return Err(BackupError::ServerGone),
                Ok(None) => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::info!("no headwater runs on this data; waiting for one");
                    }
                    self.pause(PAUSE_FIRST);
                    continue;
                }
                Err(error) => Err(error.into()),
            };
            waits = false;
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if self.once || error.is_final() => return Err(error),
                Err(error) => {
                    if began.elapsed() > PAUSE_MAX {
                        pause = PAUSE_FIRST;
                    }
                    tracing::warn!(pause_ms = pause.as_millis() as u64, "the backup is interrupted: {error}");
                    self.pause(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        // What receives has stopped in order; one backup that was asked for is not there.
        if self.once { Err(BackupError::Stopped) } else { Ok(()) }
    }

    /// Everything from the first look on. Returns when the backup is to stop.
    fn stretch(&self, url: String) -> Result<(), BackupError> {
        let tools = Tools::for_data(&self.embedded, &PROGRAMS)?;
        let database = self.block_on(async { app::open_database(&self.settings, &url) })?;
        let state = self.ask(database.wal_state())?;
        let restored_as = super::restore::restored_as(&self.embedded)?;
        let (system_identifier, timeline) = (state.system_identifier.clone(), state.timeline.clone());
        self.directory.check_store(&StoreFacts { system_identifier, timeline, restored_as })?;
        self.directory.remove_hidden()?;
        self.ask(database.make_backup_role())?;
        let run = self.run_to_go_on_with(&database, &state)?;
        wal::remove_cut_off(&self.directory.run_dir(&run), state.file_bytes)?;
        let receiver = receive(&tools, &url, &self.directory.run_dir(&run))?;
        let stretch = Stretch { backup: self, tools, url, database, run, receiver, noted: None, not_before: None };
        stretch.work().inspect_err(|error| self.end_run_after(error))
    }

    /// The newest run, if the server still has all that comes after it; otherwise a new one.
    fn run_to_go_on_with(&self, database: &Database, state: &WalState) -> Result<String, BackupError> {
        let newest = self.directory.runs()?.pop();
        let set_back = match &newest {
            Some(run) => !self.is_its_history(run, database, state)?,
            None => false,
        };
        if let Some(run) = &newest
            && !set_back
            && !self.directory.run_dir(run).join(ENDED).exists()
            && self.has_all_after(run, state)?
        {
            return Ok(run.clone());
        }
        if set_back {
            tracing::warn!(
                "the server was set back: it does not have what was received from it last. That stays, for restores to times \
                 before; the backup begins anew with a base backup"
            );
        } else if let Some(run) = newest {
            let since = self.directory.complete(&run)?.map_or_else(|| "it began".into(), |complete| complete.time);
            tracing::warn!(
                "changes since {since} were not received, and cannot be restored to; the backup begins anew with a base backup"
            );
        }
        self.ask(database.make_backup_slot())?;
        let run = self.directory.run_name_at(state.time)?;
        self.directory.begin_run(&run)?;
        Ok(run)
    }

    /// Whether the server has what was received in a run. It has not after an older copy of its disk was put in place: what
    /// it has written since is another history, and the names of its files are the same.
    fn is_its_history(&self, run: &str, database: &Database, state: &WalState) -> Result<bool, BackupError> {
        let directory = self.directory.run_dir(run);
        let noted = self.directory.complete(run)?.map(|complete| complete.up_to);
        // The note may be some seconds old, and files that are whole since.
        let next = wal::next_file(&directory, state.file_bytes)?.map(|next| next * state.file_bytes);
        for place in [noted, next].into_iter().flatten() {
            if place > state.written {
                return Ok(false);
            }
            let received = wal::received_before(&directory, &state.timeline, place, state.file_bytes)?;
            let Some((file, begin, received)) = received else { continue };
            // A file that the server has removed was received before it could be.
            let written = self.ask(database.wal_bytes(&file, begin, received.len() as i64))?;
            if written.is_some_and(|written| written != received) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the server keeps all that comes after a run. Another directory may have been backed up to since: what was
    /// received there is not kept for this one.
    fn has_all_after(&self, run: &str, state: &WalState) -> Result<bool, BackupError> {
        let Some(received) = state.slot.as_ref().and_then(|slot| slot.received) else { return Ok(false) };
        let next = wal::next_file(&self.directory.run_dir(run), state.file_bytes)?;
        Ok(next.is_none_or(|next| received / state.file_bytes <= next))
    }

    /// A run after which changes were removed is not gone on with.
    fn end_run_after(&self, error: &BackupError) {
        if let (true, Ok(Some(run))) = (tells_of_a_gap(error), self.directory.runs().map(|mut runs| runs.pop())) {
            let _ = std::fs::write(self.directory.run_dir(&run).join(ENDED), "");
        }
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, BackupError> {
        let limited = async { tokio::time::timeout(RECEIVE_WAIT_MAX, question).await };
        match self.block_on(limited) {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(StoreError::Unavailable("it does not answer".into()).into()),
        }
    }

    /// Ends early when the backup is to stop.
    fn pause(&self, duration: Duration) {
        let draining = self.lifecycle.draining().clone();
        let _ = self.block_on(async { tokio::time::timeout(duration, draining.cancelled()).await });
    }
}

/// In a run that must not be gone on with.
const ENDED: &str = "ended";

impl Stretch<'_> {
    fn work(mut self) -> Result<(), BackupError> {
        self.wait_until_received()?;
        let mut looked = Instant::now();
        loop {
            self.check()?;
            self.take_base_if_due()?;
            if self.backup.once || self.backup.lifecycle.is_draining() {
                return self.finish();
            }
            self.backup.pause(LOOK_INTERVAL.saturating_sub(looked.elapsed()).max(POLL));
            looked = Instant::now();
            let state = self.look()?;
            if self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_INTERVAL) {
                self.note_once_received(&state)?;
            }
        }
    }

    /// Waits until the receiver has connected.
    fn wait_until_received(&mut self) -> Result<(), BackupError> {
        let deadline = Instant::now() + RECEIVE_WAIT_MAX;
        while !self.look()?.slot.is_some_and(|slot| slot.is_active) {
            self.check()?;
            if Instant::now() > deadline {
                return Err(BackupError::DoesNotReceive { program: RECEIVER });
            }
            self.backup.pause_even_when_draining(POLL);
        }
        tracing::info!(to = %self.backup.directory.root().display(), "changes are received as they come");
        Ok(())
    }

    fn look(&self) -> Result<WalState, BackupError> {
        let state = self.backup.ask(self.database.wal_state())?;
        match &state.slot {
            Some(slot) if slot.received.is_none() => {
                let since =
                    self.backup.directory.complete(&self.run)?.map_or_else(String::new, |complete| complete.time);
                let reason = "there was more of them than --backup-wal-bytes-max".to_owned();
                Err(BackupError::Gap { reason, since })
            }
            _ => Ok(state),
        }
    }

    /// The receiver must be there: without it nothing else is of use.
    fn check(&mut self) -> Result<(), BackupError> {
        match self.receiver.has_ended() {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(())) => Err(BackupError::DoesNotReceive { program: RECEIVER }),
        }
    }

    /// Changes are received whatever becomes of a base backup.
    fn take_base_if_due(&mut self) -> Result<(), BackupError> {
        if self.not_before.is_some_and(|then| Instant::now() < then) || !self.is_base_due()? {
            return Ok(());
        }
        match self.take_base() {
            Err(error @ BackupError::Program { .. }) if !self.backup.once && self.receiver.has_ended().is_none() => {
                tracing::warn!(pause_ms = BASE_PAUSE.as_millis() as u64, "the base backup failed: {error}");
                self.not_before = Some(Instant::now() + BASE_PAUSE);
                Ok(())
            }
            done => done,
        }
    }

    fn is_base_due(&self) -> Result<bool, BackupError> {
        let bases = self.backup.directory.bases()?;
        let newest = bases.iter().rev().find(|base| base.facts.run == self.run);
        let Some(finished) = newest.and_then(|base| Timestamp::parse_rfc3339(&base.facts.finished_at)) else {
            return Ok(true);
        };
        let age = Timestamp::now().0.saturating_sub(finished.0);
        let interval = i64::try_from(self.backup.settings.backup.backup_interval.as_micros()).unwrap_or(i64::MAX);
        // One that is yet to come was made while the clock was ahead.
        Ok(self.backup.once || age >= interval || age < -CLOCK_SLACK_MICROS)
    }

    /// Takes a base backup. It counts once it was checked, and all changes up to its end have been received.
    fn take_base(&mut self) -> Result<(), BackupError> {
        let (backup, began) = (self.backup, Instant::now());
        let name = backup.directory.base_name_at(self.look()?.time)?;
        let copy = backup.directory.begin_base(&name)?;
        let (tools, url) = (self.tools.clone(), self.url.clone());
        let mut may_go_on = || match backup.lifecycle.is_draining() {
            false => self.check(),
            true => Err(BackupError::Stopped),
        };
        let copied =
            base::copy(&tools, &url, &copy, &mut may_go_on).and_then(|()| base::verify(&tools, &copy, &mut may_go_on));
        if let Err(error) = copied {
            // What is unfinished takes room, and is of no use.
            let _ = backup.directory.remove_hidden();
            return if backup.lifecycle.is_draining() && !backup.once { Ok(()) } else { Err(error) };
        }
        let state = self.look()?;
        self.wait_for(&state)?;
        let taken = Base { name, facts: base::facts_of(&copy, &self.run, &state)? };
        backup.directory.finish_base(&taken)?;
        self.note(&state)?;
        EmbeddedPostgres::note_backup(&backup.embedded, &taken.facts.finished_at)?;
        backup.directory.keep(backup.settings.backup.backups_kept, &self.run)?;
        tracing::info!(elapsed_ms = began.elapsed().as_millis() as u64, name = taken.name, "took a base backup");
        // Whether somebody reads it does not matter.
        let _ = app::print(&format!("base backup {} is whole; it can be restored to any time since\n", taken.name));
        Ok(())
    }

    /// Waits until all that is written in this state was received.
    fn wait_for(&mut self, state: &WalState) -> Result<(), BackupError> {
        let deadline = Instant::now() + RECEIVE_WAIT_MAX;
        loop {
            // What the slot says may still be of another directory.
            let received = self.look()?.slot.and_then(|slot| slot.reported);
            if received.is_some_and(|received| received >= state.written) {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                return Err(BackupError::DoesNotReceive { program: RECEIVER });
            }
            self.backup.pause_even_when_draining(POLL);
        }
    }

    fn note_once_received(&mut self, state: &WalState) -> Result<(), BackupError> {
        self.wait_for(state)?;
        self.note(state)
    }

    fn note(&mut self, state: &WalState) -> Result<(), BackupError> {
        let complete = Complete { time: state.time.to_rfc3339(), up_to: state.written };
        self.backup.directory.set_complete(&self.run, &complete)?;
        self.noted = Some(Instant::now());
        Ok(())
    }

    /// All that is acknowledged by now is received, then the receiver ends.
    fn finish(mut self) -> Result<(), BackupError> {
        let state = self.look()?;
        self.note_once_received(&state)?;
        self.receiver.end()
    }
}

impl Backup {
    fn pause_even_when_draining(&self, duration: Duration) {
        self.block_on(tokio::time::sleep(duration));
    }
}
