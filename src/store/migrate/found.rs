//! Reads what is in the database before a migration.
use super::MigrateError;
use super::report::Origin;
use super::rights::Missing;
use sqlx::{PgConnection, Row};

/// The oldest major version of PostgreSQL that is supported.
const SERVER_MAJOR_MIN: i32 = 14;

pub(super) struct Applied {
    pub version: i32,
    pub name: String,
    pub checksum: String,
}

pub(super) struct Installation {
    pub origin: Origin,
    pub functions_version: i32,
    pub functions_checksum: String,
    /// Whose calls they serve: those of this version, and of later ones.
    pub functions_serve_from: i32,
    pub role_granted: bool,
    pub role_refusal: Option<String>,
}

pub(super) struct Sequence {
    pub name: String,
    pub cache: i64,
}

/// A function as the database has it.
pub(super) struct Installed {
    pub schema: String,
    pub name: String,
    pub body: String,
}

pub(super) struct Found {
    pub missing_rights: Missing,
    /// Functions of both schemas.
    pub functions: Vec<Installed>,
    pub messages_exist: bool,
    /// In order of version.
    pub applied: Vec<Applied>,
    pub installation: Option<Installation>,
    pub role_exists: bool,
    pub notify_trigger: bool,
    /// The parts of Message DB's contract that are missing, if there is a table `messages`.
    pub incompatible: Vec<String>,
    /// Also `None` if there is no table `messages` yet.
    pub sequence: Option<Sequence>,
}

impl Found {
    pub(super) fn origin(&self) -> Origin {
        match &self.installation {
            Some(installation) => installation.origin,
            None if self.messages_exist => Origin::Attached,
            None => Origin::Installed,
        }
    }

    pub(super) fn newest_applied(&self) -> i32 {
        self.applied.last().map_or(0, |applied| applied.version)
    }

    /// Reads, and changes nothing.
    pub(super) async fn read(connection: &mut PgConnection, role: &str) -> Result<Self, MigrateError> {
        check_server(connection).await?;
        let missing_rights = Missing::read(connection).await?;
        if missing_rights.is_blind {
            return Err(MigrateError::MissingRights { role: missing_rights.role, grants: missing_rights.grants });
        }
        let messages_exist = table_exists(connection, "message_store", "messages").await?;
        let bookkeeping = table_exists(connection, "headwater", "installation").await?;
        let (applied, installation) = if bookkeeping {
            (read_applied(connection).await?, read_installation(connection).await?)
        } else {
            (Vec::new(), None)
        };
        let mut found = Self {
            missing_rights,
            functions: read_functions(connection).await?,
            messages_exist,
            applied,
            installation,
            role_exists: role_exists(connection, role).await?,
            notify_trigger: false,
            incompatible: Vec::new(),
            sequence: None,
        };
        if messages_exist {
            found.incompatible = read_incompatible(connection).await?;
            if found.incompatible.is_empty() {
                found.sequence = read_sequence(connection).await?;
            }
            found.notify_trigger = read_notify_trigger(connection).await?;
        }
        Ok(found)
    }
}

async fn check_server(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(connection)
        .await
        .map_err(MigrateError::at("reading the server's version"))?;
    let found = version / 10_000;
    if found < SERVER_MAJOR_MIN {
        return Err(MigrateError::ServerTooOld { found, needed: SERVER_MAJOR_MIN });
    }
    Ok(())
}

/// Looks in the catalogue: a look-up by name fails without the right USAGE on the schema.
async fn table_exists(connection: &mut PgConnection, schema: &str, table: &str) -> Result<bool, MigrateError> {
    sqlx::query_scalar(
        "SELECT EXISTS (
           SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
         )",
    )
    .bind(schema)
    .bind(table)
    .fetch_one(connection)
    .await
    .map_err(MigrateError::at(format!("looking for {schema}.{table}")))
}

async fn read_applied(connection: &mut PgConnection) -> Result<Vec<Applied>, MigrateError> {
    let rows = sqlx::query("SELECT version, name, checksum FROM headwater.migrations ORDER BY version")
        .fetch_all(connection)
        .await
        .map_err(MigrateError::at("reading headwater.migrations"))?;
    Ok(rows
        .iter()
        .map(|row| Applied { version: row.get("version"), name: row.get("name"), checksum: row.get("checksum") })
        .collect())
}

async fn read_installation(connection: &mut PgConnection) -> Result<Option<Installation>, MigrateError> {
    let row = sqlx::query(
        "SELECT message_store_origin = 'attached' AS attached, functions_version, functions_checksum, role_granted,
                role_refusal,
                -- A database of an earlier version has no such column.
                coalesce((to_jsonb(i) ->> 'functions_serve_from')::integer, 0) AS functions_serve_from
         FROM headwater.installation AS i",
    )
    .fetch_optional(connection)
    .await
    .map_err(MigrateError::at("reading headwater.installation"))?;
    Ok(row.map(|row| Installation {
        origin: if row.get("attached") { Origin::Attached } else { Origin::Installed },
        functions_version: row.get("functions_version"),
        functions_checksum: row.get("functions_checksum"),
        functions_serve_from: row.get("functions_serve_from"),
        role_granted: row.get("role_granted"),
        role_refusal: row.get("role_refusal"),
    }))
}

async fn read_functions(connection: &mut PgConnection) -> Result<Vec<Installed>, MigrateError> {
    let rows = sqlx::query(
        "SELECT n.nspname AS schema, p.proname AS name, p.prosrc AS body
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname IN ('message_store', 'headwater')",
    )
    .fetch_all(connection)
    .await
    .map_err(MigrateError::at("looking at the functions"))?;
    let read = |row: &sqlx::postgres::PgRow| Installed {
        schema: row.get("schema"),
        name: row.get("name"),
        body: row.get("body"),
    };
    Ok(rows.iter().map(read).collect())
}

/// Finds columns that are missing or of another type, missing functions that ours call, and missing unique indexes, without
/// which two messages could have one id or one position. Older installations of Message DB have varchar where newer ones
/// have text; both are taken.
async fn read_incompatible(connection: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
    sqlx::query_scalar(
        "SELECT format('column %s must be %s and is %s', needed.name, needed.types[1],
                       COALESCE(format_type(a.atttypid, NULL), 'missing'))
         FROM (VALUES
           ('global_position', ARRAY['bigint']),
           ('position', ARRAY['bigint']),
           ('time', ARRAY['timestamp without time zone']),
           ('stream_name', ARRAY['text', 'character varying']),
           ('type', ARRAY['text', 'character varying']),
           ('data', ARRAY['jsonb']),
           ('metadata', ARRAY['jsonb']),
           ('id', ARRAY['uuid'])
         ) AS needed (name, types)
         LEFT JOIN pg_catalog.pg_attribute a
           ON a.attname = needed.name
           AND a.attnum > 0
           AND NOT a.attisdropped
           AND a.attrelid = (
             SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'message_store' AND c.relname = 'messages'
           )
         WHERE a.attname IS NULL OR format_type(a.atttypid, NULL) <> ALL (needed.types)
         UNION ALL
         SELECT format('function %s is missing', needed.name)
         FROM (VALUES ('category'), ('cardinal_id'), ('hash_64')) AS needed (name)
         WHERE NOT EXISTS (
           SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
           WHERE n.nspname = 'message_store' AND p.proname = needed.name AND p.pronargs = 1
         )
         UNION ALL
         SELECT format(
           'a unique index on (%s) is missing: CREATE UNIQUE INDEX %I ON message_store.messages (%1$s)',
           array_to_string(needed.columns, ', '), needed.name
         )
         FROM (VALUES
           ('messages_pkey', ARRAY['global_position']),
           ('messages_id', ARRAY['id']),
           ('messages_stream', ARRAY['stream_name', 'position'])
         ) AS needed (name, columns)
         WHERE NOT EXISTS (
           SELECT FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = 'message_store' AND c.relname = 'messages'
             AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
             AND needed.columns = ARRAY(
               SELECT a.attname::text
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, number)
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
               WHERE k.number <= i.indnkeyatts
               ORDER BY k.number
             )
         )",
    )
    .fetch_all(connection)
    .await
    .map_err(MigrateError::at("looking at the columns of message_store.messages"))
}

async fn read_sequence(connection: &mut PgConnection) -> Result<Option<Sequence>, MigrateError> {
    let row = sqlx::query(
        "SELECT name, seqcache FROM (
           SELECT pg_get_serial_sequence('message_store.messages', 'global_position') AS name
         ) AS owned
         JOIN pg_catalog.pg_sequence ON seqrelid = name::regclass",
    )
    .fetch_optional(connection)
    .await
    .map_err(MigrateError::at("looking at the sequence of message_store.messages"))?;
    Ok(row.map(|row| Sequence { name: row.get("name"), cache: row.get("seqcache") }))
}

async fn read_notify_trigger(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    sqlx::query_scalar(
        "SELECT EXISTS (
           SELECT FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE t.tgname = 'headwater_notify' AND n.nspname = 'message_store' AND c.relname = 'messages'
         )",
    )
    .fetch_one(connection)
    .await
    .map_err(MigrateError::at("looking for the trigger headwater_notify"))
}

pub(super) async fn role_exists(connection: &mut PgConnection, role: &str) -> Result<bool, MigrateError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)")
        .bind(role)
        .fetch_one(connection)
        .await
        .map_err(MigrateError::at(format!("looking for role {role}")))
}
