//! Installs the functions, and drops those of earlier versions.
use super::report::{Change, MigrationReport, Notice, Origin};
use super::schema::{FORMER_FUNCTIONS, Function, Schema};
use super::{MigrateError, attempt, execute};
use sqlx::{Connection, PgConnection};
use std::collections::BTreeSet;

/// PostgreSQL's error when a function would get another result, or other names of parameters.
const INVALID_FUNCTION_DEFINITION: &str = "42P13";

/// The migration with the column for it.
const CALLERS_FROM_MIGRATION: i32 = 17;

/// Installs all functions twice: first without checking their bodies, since functions call each other in any order, then
/// with that check, so that a name that does not exist fails here and not when the function is called.
pub(super) async fn install(
    transaction: &mut PgConnection,
    schema: &Schema,
    report: &mut MigrationReport,
) -> Result<(), MigrateError> {
    let attached = report.origin == Origin::Attached;
    let earlier = read_earlier(transaction, schema).await?;
    let before = read_rows(transaction).await?;
    execute(transaction, "SET LOCAL check_function_bodies = off", "installing functions".to_owned()).await?;
    for function in schema.functions(attached) {
        replace(transaction, function, &earlier).await?;
    }
    execute(transaction, "SET LOCAL check_function_bodies = on", "installing functions".to_owned()).await?;
    for function in schema.functions(attached) {
        execute(transaction, &function.sql, at(function)).await?;
    }
    let after = read_rows(transaction).await?;
    let mut functions: Vec<String> =
        after.into_iter().filter(|row| !before.contains(row)).map(|(name, _)| name).collect();
    functions.extend(drop_former(transaction, &earlier, &functions, report).await?);
    sqlx::query(
        "UPDATE headwater.installation
         SET functions_version = $1, functions_checksum = $2, functions = $3, updated_at = now()",
    )
    .bind(schema.functions_version)
    .bind(schema.functions_checksum(attached))
    .bind(functions)
    .execute(&mut *transaction)
    .await
    .map_err(MigrateError::at("recording the functions' version"))?;
    record_callers(transaction, schema).await
}

/// Records whose calls the functions serve.
async fn record_callers(transaction: &mut PgConnection, schema: &Schema) -> Result<(), MigrateError> {
    if schema.newest_version() < CALLERS_FROM_MIGRATION {
        return Ok(());
    }
    sqlx::query("UPDATE headwater.installation SET functions_serve_from = $1")
        .bind(schema.functions_serve_from)
        .execute(transaction)
        .await
        .map_err(MigrateError::at("recording whose calls the functions serve"))?;
    Ok(())
}

fn at(function: &Function) -> String {
    format!("installing function {}", function.path)
}

/// The functions that Headwater has made in its schema and that still exist. Version 1 kept no list: its functions are
/// known by name.
async fn read_earlier(transaction: &mut PgConnection, schema: &Schema) -> Result<Vec<String>, MigrateError> {
    let ours = schema.functions.iter().filter(|function| !function.is_of_message_store());
    let names: Vec<&str> = ours.map(|function| &*function.path).chain(FORMER_FUNCTIONS.iter().copied()).collect();
    sqlx::query_scalar(
        "SELECT p.oid::regprocedure::text
         FROM pg_catalog.pg_proc p
         JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         CROSS JOIN headwater.installation i
         WHERE n.nspname = 'headwater'
           AND (p.oid::regprocedure::text = ANY (i.functions) OR i.functions = '{}' AND p.proname = ANY ($1))
         ORDER BY 1",
    )
    .bind(names)
    .fetch_all(transaction)
    .await
    .map_err(MigrateError::at("looking at the functions of an earlier version"))
}

/// Replaces a function without dropping it, so that rights on it stay, unless PostgreSQL does not allow that.
async fn replace(transaction: &mut PgConnection, function: &Function, earlier: &[String]) -> Result<(), MigrateError> {
    let mut savepoint = transaction.begin().await.map_err(MigrateError::at("setting a savepoint"))?;
    let replaced = execute(&mut savepoint, &function.sql, at(function)).await;
    let Err(error) = replaced else {
        return savepoint.commit().await.map_err(MigrateError::at("releasing a savepoint"));
    };
    savepoint.rollback().await.map_err(MigrateError::at("going back to a savepoint"))?;
    let prefix = format!("headwater.{}(", function.path);
    let same_name: Vec<&String> = earlier.iter().filter(|signature| signature.starts_with(&prefix)).collect();
    if same_name.is_empty() || !error.is_refused_with(INVALID_FUNCTION_DEFINITION) {
        return Err(error);
    }
    for signature in same_name {
        execute(transaction, &format!("DROP FUNCTION {signature}"), format!("dropping function {signature}")).await?;
    }
    execute(transaction, &function.sql, at(function)).await
}

/// Drops functions that earlier versions had and this one has not installed. Answers those that stay because something
/// needs them.
async fn drop_former(
    transaction: &mut PgConnection,
    earlier: &[String],
    installed: &[String],
    report: &mut MigrationReport,
) -> Result<Vec<String>, MigrateError> {
    let mut kept = Vec::new();
    for signature in earlier {
        if installed.contains(signature) {
            continue;
        }
        match attempt(transaction, &format!("DROP FUNCTION IF EXISTS {signature}")).await? {
            None => report.changes.push(Change::FunctionDropped { signature: signature.clone() }),
            Some(reason) => {
                kept.push(signature.clone());
                report.notices.push(Notice::FunctionKept { signature: signature.clone(), reason });
            }
        }
    }
    Ok(kept)
}

/// The functions of our schema by signature, each with the transaction that wrote its row: installing a function writes its
/// row anew, even if nothing has changed.
async fn read_rows(transaction: &mut PgConnection) -> Result<BTreeSet<(String, String)>, MigrateError> {
    let rows = sqlx::query_as(
        "SELECT p.oid::regprocedure::text, p.xmin::text
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'headwater'",
    )
    .fetch_all(transaction)
    .await
    .map_err(MigrateError::at("looking at what was installed"))?;
    Ok(rows.into_iter().collect())
}
