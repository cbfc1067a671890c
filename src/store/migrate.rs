//! Installs and updates the schemas: one transaction under one lock, so that of many instances that start at once
//! exactly one migrates, and the others then find nothing to do.
mod error;
mod found;
mod functions;
mod grant;
mod plan;
mod report;
mod rights;
mod schema;

pub use error::MigrateError;
pub use grant::Extra;
pub use report::{Change, MigrationReport, Notice, Origin};
pub use schema::{FUNCTIONS_SERVE_FROM, FUNCTIONS_VERSION, Function, MESSAGE_STORE_ROLE, Migration, Schema};

use super::finder::Finder;
use super::pooler;
use super::target::Target;
use found::{Found, role_exists};
use plan::{MigrationStep, Plan};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, raw_sql};
use std::time::Duration;

/// How long a database may take to accept the connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long to wait for another instance that migrates.
const OTHER_INSTANCE_WAIT_MAX: Duration = Duration::from_secs(300);
/// How long to wait for a lock on a table. Writers queue up behind such a wait, so it is short.
const TABLE_LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// The lock of all instances, of the kind with two keys: Message DB's locks on categories are of the other kind.
const MIGRATION_LOCK: (i32, i32) = (0x4865_6164, 0x7761_7465);
const LOCK_NOT_AVAILABLE: &str = "55P03";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The options of a migration.
#[derive(Debug, Clone, Copy, Default)]
pub struct MigrateOptions {
    /// A trigger on `message_store.messages` that notifies after every INSERT, for writers that do not notify themselves.
    pub notify_trigger: bool,
}

/// Brings the database to this binary's schema, or leaves it as it was.
pub async fn run(url: &str, options: &MigrateOptions) -> Result<MigrationReport, MigrateError> {
    run_schema(url, options, &Schema::embedded()).await
}

/// Only looks: what [`run`] would do.
pub async fn check(url: &str, options: &MigrateOptions) -> Result<MigrationReport, MigrateError> {
    check_schema(url, options, &Schema::embedded()).await
}

/// Gives a role the rights that the service needs, and answers the statements. With `only_look` nothing is given.
pub async fn grant_to(url: &str, role: &str, extras: &[Extra], only_look: bool) -> Result<Vec<String>, MigrateError> {
    let mut connection = connect(url).await?;
    let statements = grant::statements(&mut connection, role, extras).await?;
    if !only_look {
        grant::execute(&mut connection, &statements).await?;
    }
    close(connection).await;
    Ok(statements)
}

/// [`run`] with another schema than the embedded one.
pub async fn run_schema(url: &str, options: &MigrateOptions, schema: &Schema) -> Result<MigrationReport, MigrateError> {
    if !are_sessions(url).await? {
        return Err(MigrateError::Pooler);
    }
    // After that, so that it does not idle meanwhile: a database may have a limit for that.
    let mut connection = connect(url).await?;
    // Nearly every start finds nothing to do: it then waits for no lock, and works on a standby too.
    let found = Found::read(&mut connection, &schema.role).await?;
    let plan = Plan::of(&found, schema, options)?;
    let report = if plan.steps.is_empty() {
        report(&plan, Vec::new())
    } else {
        match migrate(&mut connection, options, schema).await {
            Ok(report) => report,
            Err(error) => return Err(explain(error, &mut connection).await),
        }
    };
    close(connection).await;
    Ok(report)
}

/// [`check`] with another schema than the embedded one.
pub async fn check_schema(
    url: &str,
    options: &MigrateOptions,
    schema: &Schema,
) -> Result<MigrationReport, MigrateError> {
    let mut connection = connect(url).await?;
    let found = Found::read(&mut connection, &schema.role).await?;
    let plan = Plan::of(&found, schema, options)?;
    close(connection).await;
    Ok(MigrationReport { only_checked: true, ..report(&plan, plan.changes(schema)) })
}

/// Adds to a refusal which role may do what this role may not.
async fn explain(error: MigrateError, connection: &mut PgConnection) -> MigrateError {
    match error {
        MigrateError::Sql { step, source }
            if source.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref()
                == Some(INSUFFICIENT_PRIVILEGE) =>
        {
            match rights::advice(connection).await {
                Ok(advice) => MigrateError::NotAllowed { step, reason: source.to_string(), advice },
                Err(_) => MigrateError::Sql { step, source },
            }
        }
        other => other,
    }
}

fn report(plan: &Plan<'_>, changes: Vec<Change>) -> MigrationReport {
    MigrationReport { origin: plan.origin, changes, notices: plan.notices.clone(), only_checked: false }
}

async fn connect(url: &str) -> Result<PgConnection, MigrateError> {
    in_time(async { way_to_primary(url).await?.connect().await.map_err(|source| MigrateError::Connect { source }) })
        .await
}

/// Whether the URL leads to PostgreSQL itself, or to a pooler that keeps sessions.
async fn are_sessions(url: &str) -> Result<bool, MigrateError> {
    let options = way_to_primary(url).await?;
    in_time(async { pooler::are_sessions(&options).await.map_err(|source| MigrateError::Connect { source }) }).await
}

async fn way_to_primary(url: &str) -> Result<PgConnectOptions, MigrateError> {
    let target = Target::parse(url, CONNECT_WAIT_MAX, CONNECT_WAIT_MAX);
    let target = target.map_err(|source| MigrateError::Url { source })?;
    let server = Finder::new(target, CONNECT_WAIT_MAX).server().await;
    let server = server.map_err(|error| MigrateError::NoPrimary { reason: error.to_string() })?;
    Ok(server.way.plain.clone().application_name("headwater migrate"))
}

fn in_time<T>(
    connecting: impl Future<Output = Result<T, MigrateError>>,
) -> impl Future<Output = Result<T, MigrateError>> {
    // On the heap, as every connecting: it is large.
    let connecting = Box::pin(connecting);
    async move {
        match tokio::time::timeout(CONNECT_WAIT_MAX, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(MigrateError::ConnectTimeout { waited: CONNECT_WAIT_MAX }),
        }
    }
}

/// Closes the connection. Everything is committed by now, so a connection that ends badly is no failure.
async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the migration's connection did not close in order");
    }
}

async fn migrate(
    connection: &mut PgConnection,
    options: &MigrateOptions,
    schema: &Schema,
) -> Result<MigrationReport, MigrateError> {
    // Whatever the database's default is: each statement after the wait must see what the other instance committed.
    let mut transaction = connection
        .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        .await
        .map_err(MigrateError::at("beginning the transaction"))?;
    lock(&mut transaction).await?;

    let found = Found::read(&mut transaction, &schema.role).await?;
    let plan = Plan::of(&found, schema, options)?;
    let mut report = report(&plan, Vec::new());
    for step in &plan.steps {
        take(&mut transaction, step, schema, &mut report).await?;
    }
    transaction.commit().await.map_err(MigrateError::at("committing"))?;
    Ok(report)
}

/// Settings of this transaction alone, then the lock.
async fn lock(transaction: &mut PgConnection) -> Result<(), MigrateError> {
    // With an empty search path a name that is not qualified fails here, and not only for roles with another path.
    let settings = format!(
        "SET LOCAL search_path = '';
         SET LOCAL statement_timeout = 0;
         SET LOCAL client_min_messages = warning;
         SET LOCAL lock_timeout = '{}ms';
         SELECT pg_catalog.pg_advisory_xact_lock({}, {});
         SET LOCAL lock_timeout = '{}ms'",
        OTHER_INSTANCE_WAIT_MAX.as_millis(),
        MIGRATION_LOCK.0,
        MIGRATION_LOCK.1,
        TABLE_LOCK_WAIT_MAX.as_millis(),
    );
    raw_sql(AssertSqlSafe(settings)).execute(transaction).await.map_err(|source| {
        let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some(LOCK_NOT_AVAILABLE) {
            MigrateError::Locked { waited: OTHER_INSTANCE_WAIT_MAX }
        } else {
            MigrateError::Sql { step: "taking the migration lock".to_owned(), source }
        }
    })?;
    Ok(())
}

async fn take(
    transaction: &mut PgConnection,
    step: &MigrationStep<'_>,
    schema: &Schema,
    report: &mut MigrationReport,
) -> Result<(), MigrateError> {
    let origin = report.origin;
    match step {
        MigrationStep::Apply(migration) => {
            let doing = format!("applying migration {} ({})", migration.version, migration.name);
            execute(transaction, &migration.sql, doing).await?;
            record(transaction, migration, "applied", origin).await?;
        }
        MigrationStep::Skip(migration) => record(transaction, migration, "skipped", origin).await?,
        MigrationStep::InstallFunctions { .. } => {
            report.changes.push(step.change(schema, origin == Origin::Attached));
            return functions::install(transaction, schema, report).await;
        }
        MigrationStep::GrantRole => return grant_role(transaction, schema, report).await,
        MigrationStep::AddNotifyTrigger => {
            execute(transaction, schema::NOTIFY_TRIGGER, "adding the trigger headwater_notify".to_owned()).await?;
        }
    }
    report.changes.push(step.change(schema, origin == Origin::Attached));
    Ok(())
}

/// Any number of statements, without parameters.
async fn execute(transaction: &mut PgConnection, sql: &str, step: String) -> Result<(), MigrateError> {
    raw_sql(AssertSqlSafe(sql)).execute(transaction).await.map_err(MigrateError::at(step))?;
    Ok(())
}

/// Records a migration. The first one also records whose `message_store` it is, so that no later version decides anew.
async fn record(
    transaction: &mut PgConnection,
    migration: &Migration,
    outcome: &str,
    origin: Origin,
) -> Result<(), MigrateError> {
    let step = || MigrateError::at(format!("recording migration {} ({})", migration.version, migration.name));
    sqlx::query("INSERT INTO headwater.migrations (version, name, checksum, outcome) VALUES ($1, $2, $3, $4)")
        .bind(migration.version)
        .bind(&*migration.name)
        .bind(migration.checksum())
        .bind(outcome)
        .execute(&mut *transaction)
        .await
        .map_err(step())?;
    sqlx::query("INSERT INTO headwater.installation (message_store_origin) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(match origin {
            Origin::Installed => "installed",
            Origin::Attached => "attached",
        })
        .execute(transaction)
        .await
        .map_err(step())?;
    Ok(())
}

/// Creates the role and grants its rights. A managed database may refuse that for its own reasons, and Headwater works
/// without the role, so a refusal is recorded, and the role is not created again at the next start.
async fn grant_role(
    transaction: &mut PgConnection,
    schema: &Schema,
    report: &mut MigrationReport,
) -> Result<(), MigrateError> {
    let role = schema.role.to_string();
    let mut refused = None;
    if !role_exists(transaction, &role).await? {
        let create = format!("CREATE ROLE {} LOGIN", schema::quoted(&role));
        refused = attempt(transaction, &create).await?;
        if refused.is_none() {
            report.changes.push(Change::RoleCreated { role: role.clone() });
        }
    }
    // Another database of this server may have created it at the same moment.
    if role_exists(transaction, &role).await? {
        refused = attempt(transaction, &schema.grants()).await?;
        if refused.is_none() {
            sqlx::query("UPDATE headwater.installation SET role_granted = true, updated_at = now()")
                .execute(&mut *transaction)
                .await
                .map_err(MigrateError::at(format!("recording the rights of role {role}")))?;
            report.changes.push(Change::RoleGranted { role: role.clone() });
        }
    }
    if let Some(reason) = refused {
        sqlx::query("UPDATE headwater.installation SET role_refusal = $1, updated_at = now()")
            .bind(&reason)
            .execute(transaction)
            .await
            .map_err(MigrateError::at(format!("recording that role {role} was refused")))?;
        report.notices.push(Notice::RoleRefused { role, reason });
    }
    Ok(())
}

/// Executes a statement and returns why the database refused it, if it did; the rest of the transaction is kept.
async fn attempt(transaction: &mut PgConnection, sql: &str) -> Result<Option<String>, MigrateError> {
    let mut savepoint = transaction.begin().await.map_err(MigrateError::at("setting a savepoint"))?;
    match raw_sql(AssertSqlSafe(sql)).execute(&mut *savepoint).await {
        Ok(_) => {
            savepoint.commit().await.map_err(MigrateError::at("releasing a savepoint"))?;
            Ok(None)
        }
        Err(sqlx::Error::Database(refusal)) => {
            savepoint.rollback().await.map_err(MigrateError::at("going back to a savepoint"))?;
            Ok(Some(refusal.message().to_owned()))
        }
        Err(source) => Err(MigrateError::Sql { step: "asking for a role's rights".to_owned(), source }),
    }
}
