//! Gives a role the rights that the service needs, and no others.
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};

use super::MigrateError;
use super::schema::quoted;

/// What the service may do with messages beyond reading and appending, if its role may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Trims and retentions delete messages.
    Trim,
    /// Erasures change messages.
    Erase,
    /// Imports that keep global positions lock the table and set the sequence.
    Import,
}

/// Tables of `headwater` that only migrations write to.
pub(super) const BOOKKEEPING: [&str; 2] = ["migrations", "installation"];

/// The statements that give `role` the rights to serve, for an owner or an administrator.
pub(super) async fn statements(
    connection: &mut PgConnection,
    role: &str,
    extras: &[Extra],
) -> Result<Vec<String>, MigrateError> {
    let role = quoted(role);
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename)
         FROM pg_catalog.pg_tables
         WHERE schemaname = 'headwater' AND tablename <> ALL ($1)
         ORDER BY tablename",
    )
    .bind(BOOKKEEPING)
    .fetch_all(&mut *connection)
    .await
    .map_err(MigrateError::at("looking at the tables"))?;
    let sequence: Option<String> =
        sqlx::query_scalar("SELECT pg_get_serial_sequence('message_store.messages', 'global_position')")
            .fetch_one(connection)
            .await
            .map_err(MigrateError::at("looking at the sequence of messages"))?;
    let bookkeeping = BOOKKEEPING.map(|table| format!("headwater.{table}")).join(", ");
    let mut grants = vec![
        "USAGE ON SCHEMA message_store, headwater".to_owned(),
        "SELECT, INSERT ON message_store.messages".to_owned(),
        format!("SELECT, INSERT, UPDATE, DELETE ON {}", tables.join(", ")),
        format!("SELECT ON {bookkeeping}"),
        "USAGE ON ALL SEQUENCES IN SCHEMA headwater".to_owned(),
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store, headwater".to_owned(),
    ];
    let sequence = sequence.map(|sequence| format!("SEQUENCE {sequence}"));
    grants.extend(sequence.iter().map(|sequence| format!("USAGE ON {sequence}")));
    for extra in extras {
        match extra {
            Extra::Trim => grants.push("DELETE ON message_store.messages".to_owned()),
            Extra::Erase => grants.push("UPDATE ON message_store.messages".to_owned()),
            Extra::Import => {
                grants.push("UPDATE ON message_store.messages".to_owned());
                grants.extend(sequence.iter().map(|sequence| format!("UPDATE ON {sequence}")));
            }
        }
    }
    Ok(grants.into_iter().map(|grant| format!("GRANT {grant} TO {role}")).collect())
}

/// Executes them, all or none. The rights that the role has already stay.
pub(super) async fn execute(connection: &mut PgConnection, statements: &[String]) -> Result<(), MigrateError> {
    let mut transaction = connection.begin().await.map_err(MigrateError::at("beginning the transaction"))?;
    for statement in statements {
        let granting = raw_sql(AssertSqlSafe(statement.as_str()));
        granting.execute(&mut *transaction).await.map_err(MigrateError::at(statement.as_str()))?;
    }
    transaction.commit().await.map_err(MigrateError::at("committing the rights"))
}
