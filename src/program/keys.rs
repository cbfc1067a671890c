//! `headwater keys`: API keys, for everybody who may use the database. So the first key needs no service and no key.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::app::{self, AppError, DatabaseInUse};
use crate::config::{KeysCommand, Settings};
use crate::domain::api_key::ApiKey;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::service::auth::{CreateKeyError, KeyRequest, NewApiKey, new_key};
use crate::store::migrate::{self, MigrateOptions};
use crate::store::{Database, StoreError};

/// The maker of keys that are made here.
const MADE_BY: &str = "command line";
/// Keys that are read at once.
const PAGE: i64 = 1_000;
/// What PostgreSQL says if the table is not there: SQLSTATE `undefined_table` and `invalid_schema_name`.
const NOT_MIGRATED: [&str; 2] = ["42P01", "3F000"];

/// Does what the command says, on the database in use.
pub async fn run(settings: &Settings, command: KeysCommand) -> Result<(), AppError> {
    let in_use = DatabaseInUse::join(settings, &CancellationToken::new()).await?;
    let outcome = match app::open_database(settings, in_use.url()) {
        Ok(database) => {
            let outcome = run_on(&database, in_use.url(), settings, command).await;
            database.close();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    in_use.stop().await;
    outcome
}

async fn run_on(database: &Database, url: &str, settings: &Settings, command: KeysCommand) -> Result<(), AppError> {
    // The first key may be made before the first start of the service.
    if let Err(StoreError::Refused { code, .. }) = database.api_keys().state().await
        && NOT_MIGRATED.contains(&code.as_str())
    {
        app::take_report(migrate::run(url, &MigrateOptions::default()).await?)?;
    }
    match command {
        KeysCommand::Create { name, scope, expires_in, json } => {
            create(database, settings.auth.api_keys_max, &name, &scope, expires_in, json).await
        }
        KeysCommand::List { json } => list(database, json).await,
        KeysCommand::Revoke { ids } => revoke(database, &ids).await,
    }
}

async fn create(
    database: &Database,
    keys_max: usize,
    name: &str,
    scopes: &[Scope],
    expires_in: Option<Duration>,
    as_json: bool,
) -> Result<(), AppError> {
    let expires_at = expires_in.map(Timestamp::after);
    let request = KeyRequest { name, scopes, expires_at, created_by: MADE_BY };
    let NewApiKey { secret, key } = new_key(database, keys_max, request).await.map_err(|error| match error {
        CreateKeyError::TooMany { .. } => AppError::Failed(error.to_string()),
        CreateKeyError::Store(error) => failed(&error),
    })?;
    if as_json {
        let mut shown = document(&key);
        shown["key"] = secret.expose().into();
        return print(&format!("{shown:#}\n"));
    }
    // The key alone goes to standard output, so that a script can keep it; all else is for people.
    print(&format!("{}\n", secret.expose()))?;
    let until = key.expires_at.map_or_else(|| "never expires".into(), |at| format!("expires on {}", minute(at)));
    eprintln!(
        "\nThis is the key {} (\"{}\"), which {until}, and allows:\n  {}\nIt is not shown again: keep it where secrets \
         are kept. Programs send it with each request:\n  Authorization: Bearer hw_…\nTo revoke it: headwater keys revoke {}",
        key.id,
        key.name,
        scopes_of(&key).join("\n  "),
        key.id
    );
    Ok(())
}

async fn list(database: &Database, as_json: bool) -> Result<(), AppError> {
    let mut keys: Vec<ApiKey> = Vec::new();
    loop {
        let after = keys.last().map(|key| key.id.clone());
        let page = database.api_keys().list(after.as_deref(), PAGE).await.map_err(|error| failed(&error))?;
        let is_last = (page.len() as i64) < PAGE;
        keys.extend(page);
        if is_last {
            break;
        }
    }
    if as_json {
        let keys: Vec<Value> = keys.iter().map(document).collect();
        return print(&format!("{:#}\n", json!({ "keys": keys })));
    }
    if keys.is_empty() {
        eprintln!("There are no keys. To make one: headwater keys create --name NAME --scope SCOPE");
        return Ok(());
    }
    print(&table(&keys))
}

async fn revoke(database: &Database, ids: &[String]) -> Result<(), AppError> {
    let mut unknown = Vec::new();
    for id in ids {
        match database.api_keys().revoke(id).await.map_err(|error| failed(&error))? {
            Some(key) => eprintln!("The key {id} (\"{}\") is revoked.", key.name),
            None => unknown.push(id.as_str()),
        }
    }
    match unknown.as_slice() {
        [] => Ok(()),
        unknown => Err(AppError::Failed(format!("there is no key {}", unknown.join(", ")))),
    }
}

fn table(keys: &[ApiKey]) -> String {
    let now = Timestamp::now();
    let time = |time: Option<Timestamp>| time.map_or_else(|| "never".to_owned(), minute);
    let head = ["ID", "NAME", "STATE", "EXPIRES", "LAST USED", "CREATED", "BY", "SCOPES"].map(str::to_owned);
    let rows = keys.iter().map(|key| {
        [
            key.id.clone(),
            key.name.clone(),
            key.state(now).to_owned(),
            time(key.expires_at),
            time(key.last_used_at),
            minute(key.created_at),
            key.created_by.clone(),
            scopes_of(key).join(" "),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row: &[String; 8]| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn document(key: &ApiKey) -> Value {
    let time = |time: Option<Timestamp>| time.map(Timestamp::to_rfc3339);
    json!({
        "id": key.id,
        "name": key.name,
        "scopes": scopes_of(key),
        "state": key.state(Timestamp::now()),
        "created_at": key.created_at.to_rfc3339(),
        "created_by": key.created_by,
        "expires_at": time(key.expires_at),
        "revoked_at": time(key.revoked_at),
        "last_used_at": time(key.last_used_at),
    })
}

fn scopes_of(key: &ApiKey) -> Vec<String> {
    key.scopes.iter().map(ToString::to_string).collect()
}

/// `2026-11-22 03:10`, in UTC.
fn minute(time: Timestamp) -> String {
    time.to_rfc3339()[..16].replace('T', " ")
}

fn failed(error: &StoreError) -> AppError {
    AppError::Failed(error.to_string())
}

fn print(text: &str) -> Result<(), AppError> {
    app::print(text).map_err(AppError::Output)
}
