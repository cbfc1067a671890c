//! The program: does what the command line asks for, and ends with an exit code.

mod keys;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::app::{self, AppError, DatabaseInUse};
use crate::backup::{self, BackupOptions, RestoreOptions};
use crate::config::{Cli, Command, GrantExtra, OpenApiVersion, Settings};
use crate::domain::database_url;
use crate::store::migrate::{self, Extra, MigrateError, MigrateOptions};
use crate::transfer::{self, ExportOptions, ImportOptions};
use crate::{doctor, http, telemetry};

/// Does what the command line asks for.
///
/// It is here and not in `main.rs`, because a future is compiled where somebody waits for it: a binary that did would
/// compile most of the service once more.
pub fn run() -> ExitCode {
    let cli = Cli::read();
    if let Err(error) = telemetry::logging::start_logging(&cli.settings.log, cli.settings.log_format) {
        eprintln!("headwater: {error}");
        return ExitCode::from(2);
    }
    raise_open_files();
    // Code that asks for a provider of cryptography without naming one gets this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let outcome = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => runtime.block_on(app::serve(cli.settings)).map(|()| ExitCode::SUCCESS),
        Command::Migrate { check, notify_trigger, grant_to, grant } => {
            let grant = grant_to.map(|role| (role, grant.into_iter().map(extra).collect()));
            runtime.block_on(migrate_schema(&cli.settings, check, MigrateOptions { notify_trigger }, grant))
        }
        Command::Keys { command } => runtime.block_on(keys::run(&cli.settings, command)).map(|()| ExitCode::SUCCESS),
        Command::Psql { arguments } => runtime.block_on(psql(&cli.settings, &arguments)),
        Command::Export { file, after, resume, categories } => {
            let options = ExportOptions { file, after, resume, categories };
            runtime.block_on(transfer::run_export(&cli.settings, options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Import { file, append, check } => {
            let options = ImportOptions { file, append, check };
            runtime.block_on(transfer::run_import(&cli.settings, options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Backup { to, once } => {
            runtime.block_on(backup::run_backup(&cli.settings, BackupOptions { to, once })).map(|()| ExitCode::SUCCESS)
        }
        Command::Restore { from, at, list } => runtime
            .block_on(backup::run_restore(&cli.settings, RestoreOptions { from, at, list }))
            .map(|()| ExitCode::SUCCESS),
        Command::Doctor { json } => runtime.block_on(doctor::run(&cli.settings, json)),
        Command::Openapi { version } => {
            let version = match version {
                OpenApiVersion::V3_1 => http::openapi::Version::V3_1,
                OpenApiVersion::V3_2 => http::openapi::Version::V3_2,
            };
            printed(&http::openapi::document_in(version))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::grouped(), "headwater", &mut script);
            printed(&String::from_utf8_lossy(&script))
        }
        Command::Man => man().and_then(|page| printed(&page)),
    };
    outcome.unwrap_or_else(|error| failed(&error))
}

/// Raises the soft limit of open files to the hard one, which is usually far higher: each follower is an open file.
fn raise_open_files() {
    // SAFETY: the structure is filled by the first call before it is read.
    let outcome = unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
        } else {
            0
        }
    };
    if outcome != 0 {
        tracing::warn!("the limit of open files cannot be raised: {}", std::io::Error::last_os_error());
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

fn extra(extra: GrantExtra) -> Extra {
    match extra {
        GrantExtra::Trim => Extra::Trim,
        GrantExtra::Erase => Extra::Erase,
        GrantExtra::Import => Extra::Import,
    }
}

fn printed(text: &str) -> Result<ExitCode, AppError> {
    app::print(text).map(|()| ExitCode::SUCCESS).map_err(AppError::Output)
}

/// The manual page: the commands, each with what it takes, and the settings.
fn man() -> Result<String, AppError> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::grouped()).render(&mut page).map_err(AppError::Output)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Migrates, and gives a role its rights if one is named.
async fn migrate_schema(
    settings: &Settings,
    check: bool,
    options: MigrateOptions,
    grant: Option<(String, Vec<Extra>)>,
) -> Result<ExitCode, AppError> {
    let database = DatabaseInUse::join(settings, &CancellationToken::new()).await?;
    let migrating = async {
        let report = match check {
            true => migrate::check(database.url(), &options).await?,
            false => migrate::run(database.url(), &options).await?,
        };
        let grants = match &grant {
            Some((role, extras)) => migrate::grant_to(database.url(), role, extras, check).await?,
            None => Vec::new(),
        };
        Ok((report, grants))
    };
    let outcome: Result<_, MigrateError> = migrating.await;
    database.stop().await;
    let (report, grants) = outcome?;
    let mut lines: String = report.lines().iter().map(|line| format!("{line}\n")).collect();
    lines.extend(grants.iter().map(|grant| format!("{grant};\n")));
    app::print(&lines).map_err(AppError::Output)?;
    Ok(if check && !report.is_up_to_date() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Functions of Message DB are called without their schema, as its users write them.
const PSQL_OPTIONS: &str = "-c search_path=message_store,public";

async fn psql(settings: &Settings, arguments: &[String]) -> Result<ExitCode, AppError> {
    let database = DatabaseInUse::join(settings, &CancellationToken::new()).await?;
    let program = settings.postgres_bin_dir.as_ref().map_or_else(|| "psql".into(), |directory| directory.join("psql"));
    // Of several hosts, the primary.
    let of_several = database_url::of_each_host(database.url()).len() > 1;
    let status = tokio::process::Command::new(&program)
        .arg(database.url())
        .args(arguments)
        .env("PGOPTIONS", PSQL_OPTIONS)
        .envs(of_several.then_some(("PGTARGETSESSIONATTRS", "read-write")))
        .status()
        .await;
    database.stop().await;
    let status = status.map_err(|error| AppError::Failed(format!("{} cannot be run: {error}", program.display())))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
