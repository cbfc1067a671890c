//! `headwater restore`: makes the data directory of a base backup and the changes up to a time.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::directory::{Base, BaseFacts, Complete, Directory, read_json};
use super::run::refuse_a_given_database;
use super::{BackupError, base, wal};
use crate::app::{self, AppError};
use crate::config::Settings;
use crate::domain::time::Timestamp;
use crate::embedded_postgres::{self, EmbeddedSettings, RestorePlan, Tools};

/// Beside the data: what it was made of.
const NOTE: &str = "restored.json";

/// What to restore.
pub struct RestoreOptions {
    pub from: PathBuf,
    /// All that was committed up to this time. `None`: everything.
    pub at: Option<Timestamp>,
    /// Only say which times there are.
    pub list: bool,
}

/// What a data directory was made of.
#[derive(Debug, Serialize, Deserialize)]
struct Restored {
    /// Tells this store from all others that were made of the same backup.
    id: String,
    from: PathBuf,
    base: String,
    at: Option<String>,
}

/// The id of the restore that made this data; `None` if it was never restored.
pub fn restored_as(settings: &EmbeddedSettings) -> Result<Option<String>, BackupError> {
    let path = settings.data_root()?.join(NOTE);
    if !path.exists() {
        return Ok(None);
    }
    read_json::<Restored>(&path).map(|restored| Some(restored.id))
}

/// Restores into the data directory of the settings.
pub async fn run_restore(settings: &Settings, options: RestoreOptions) -> Result<(), AppError> {
    refuse_a_given_database(settings, "restore")?;
    let said = match options.list {
        true => list(&options),
        false => restore(&app::embedded_settings(settings), options).await,
    };
    let said = said.map_err(|error| AppError::Failed(format!("the restore: {error}")))?;
    app::print(&said).map_err(AppError::Output)
}

fn list(options: &RestoreOptions) -> Result<String, BackupError> {
    let directory = Directory::open_to_read(&options.from)?;
    let mut said = String::new();
    for base in directory.bases()? {
        let up_to = directory.complete(&base.facts.run)?.map_or_else(|| base.facts.finished_at.clone(), |all| all.time);
        said += &format!("{}  any time from {} to {up_to}\n", base.name, base.facts.finished_at);
    }
    Ok(if said.is_empty() { "there is no base backup yet\n".into() } else { said })
}

async fn restore(settings: &EmbeddedSettings, options: RestoreOptions) -> Result<String, BackupError> {
    let (of_data, at) = (settings.clone(), options.at);
    let preparing = tokio::task::spawn_blocking(move || prepare(&of_data, &options));
    let (directory, plan, name) = match preparing.await {
        Ok(prepared) => prepared?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let files = plan.wal.len();
    let root = embedded_postgres::restore(settings, plan).await?;
    // Until here no base backup is removed.
    drop(directory);
    let until = at.map(Timestamp::to_rfc3339).unwrap_or_else(|| "the end of what was received".into());
    Ok(format!(
        "restored {} up to {until}: base backup {name} and {files} files of changes. Cursors of messages after that are refused \
         (history-changed). Back this store up into a new directory\n",
        root.display()
    ))
}

/// Chooses a base backup, and checks that it and all changes after it are there.
fn prepare(
    settings: &EmbeddedSettings,
    options: &RestoreOptions,
) -> Result<(Directory, RestorePlan, String), BackupError> {
    let directory = Directory::open_to_read(&options.from)?;
    let (base, complete) = choose(&directory, options.at)?;
    let up_to = complete.map_or(0, |complete| complete.up_to);
    let BaseFacts { run, first_wal_file, wal_file_bytes, .. } = &base.facts;
    let files = wal::chain_from(&directory.run_dir(run), first_wal_file, up_to, *wal_file_bytes)?;
    let copy = directory.data_of(&base);
    let tools = Tools::for_copy(settings, &copy, &["pg_verifybackup"])?;
    base::verify(&tools, &copy, || Ok(()))?;
    let at = options.at.map(Timestamp::to_rfc3339);
    // Where PostgreSQL reads this setting it knows no names of zones, so not even `Z`.
    let until = at.as_ref().map(|at| at.replace('T', " ").replace('Z', "+00"));
    let restored =
        Restored { id: Uuid::new_v4().to_string(), from: directory.root().to_owned(), base: base.name.clone(), at };
    let note = (NOTE, serde_json::to_string_pretty(&restored).unwrap_or_default());
    let plan = RestorePlan { base: copy, wal: files, wal_file_bytes: *wal_file_bytes, up_to, until, note };
    Ok((directory, plan, base.name))
}

/// The newest base backup before a time, and up to when its run is complete.
fn choose(directory: &Directory, at: Option<Timestamp>) -> Result<(Base, Option<Complete>), BackupError> {
    let mut bases = directory.bases()?;
    let Some(oldest) = bases.first().map(|base| base.facts.finished_at.clone()) else {
        return Err(BackupError::CannotRestore("there is no base backup that is whole".into()));
    };
    if let Some(at) = at {
        bases.retain(|base| Timestamp::parse_rfc3339(&base.facts.finished_at).is_some_and(|finished| finished <= at));
    }
    let Some(base) = bases.pop() else {
        let reason = format!("the oldest base backup is of {oldest}: there is nothing to restore that time from");
        return Err(BackupError::CannotRestore(reason));
    };
    let complete = directory.complete(&base.facts.run)?;
    let up_to = complete.as_ref().map_or_else(|| base.facts.finished_at.clone(), |complete| complete.time.clone());
    if at.is_some_and(|at| Timestamp::parse_rfc3339(&up_to).is_none_or(|up_to| at > up_to)) {
        return Err(BackupError::CannotRestore(format!(
            "from base backup {} on, all changes were received up to {up_to} and not further: restore to that time or an earlier \
             one, or without --at to what there is",
            base.name
        )));
    }
    Ok((base, complete))
}
