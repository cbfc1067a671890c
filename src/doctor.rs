//! `headwater doctor`: looks at settings, machine and database, says what is wrong and what to do about it. Changes nothing.

mod backup;
mod database;
mod machine;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::app::{self, AppError, DatabaseInUse};
use crate::build_info;
use crate::config::Settings;

/// How a look turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Worth knowing; everything works.
    Note,
    /// Something does not work, or will not for long.
    Wrong,
    /// It could not be looked at.
    Unknown,
}

/// What one look has found.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    /// What was looked at: a word that stays the same from version to version.
    check: &'static str,
    level: Level,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// Findings as they come.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.push(check, Level::Ok, found, None);
    }

    fn note(&mut self, check: &'static str, found: impl Into<String>, advice: Option<&str>) {
        self.push(check, Level::Note, found, advice.map(str::to_owned));
    }

    fn wrong(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.push(check, Level::Wrong, found, Some(advice.into()));
    }

    fn unknown(&mut self, check: &'static str, found: impl Into<String>) {
        self.push(check, Level::Unknown, found, None);
    }

    fn push(&mut self, check: &'static str, level: Level, found: impl Into<String>, advice: Option<String>) {
        self.0.push(Finding { check, level, found: found.into(), advice });
    }

    fn wrong_count(&self) -> usize {
        self.0.iter().filter(|finding| finding.level == Level::Wrong).count()
    }
}

/// Looks at everything, prints what was found, and fails if something is wrong.
pub async fn run(settings: &Settings, as_json: bool) -> Result<ExitCode, AppError> {
    let mut findings = Findings::default();
    findings.ok("version", format!("headwater {}", build_info::line()));
    machine::look_at_settings(settings, &mut findings).await;
    machine::look_at_open_files(settings, &mut findings);
    machine::look_at_service(settings, &mut findings).await;
    look_at_database(settings, app::data_dir(settings)?, &mut findings).await;
    let text = if as_json { json(&findings) } else { text(&findings) };
    app::print(&text).map_err(AppError::Output)?;
    Ok(if findings.wrong_count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look_at_database(settings: &Settings, data_dir: Option<PathBuf>, findings: &mut Findings) {
    if let Some(directory) = &data_dir {
        // Starting the embedded server would make the data.
        if !directory.join("pgdata").exists() {
            let found = format!("there is no data in {} yet: the first start makes it", directory.display());
            return findings.note("database", found, None);
        }
        machine::look_at_disk(directory, findings);
    }
    match DatabaseInUse::join(settings, &CancellationToken::new()).await {
        Ok(in_use) => {
            database::look(settings, in_use.url(), data_dir.is_some(), findings).await;
            in_use.stop().await;
        }
        Err(error) => findings.wrong("database", error.to_string(), "see the log of PostgreSQL"),
    }
}

fn json(findings: &Findings) -> String {
    let document = serde_json::json!({ "wrong": findings.wrong_count(), "findings": findings.0 });
    format!("{document:#}\n")
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for Finding { check, level, found, advice } in &findings.0 {
        let level = match level {
            Level::Ok => "ok     ",
            Level::Note => "note   ",
            Level::Wrong => "WRONG  ",
            Level::Unknown => "unknown",
        };
        text.push_str(&format!("{level}  {check}: {found}\n"));
        if let Some(advice) = advice {
            text.push_str(&format!("         to do: {advice}\n"));
        }
    }
    match findings.wrong_count() {
        0 => text.push_str("nothing is wrong\n"),
        1 => text.push_str("1 thing is wrong\n"),
        count => text.push_str(&format!("{count} things are wrong\n")),
    }
    text
}
