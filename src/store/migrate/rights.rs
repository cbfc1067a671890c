//! Finds the rights that the service needs and this role lacks, and the GRANTs that give them.
use super::MigrateError;
use sqlx::{PgConnection, Row};

/// Rights of this role that are missing.
#[derive(Debug, Clone, Default)]
pub(super) struct Missing {
    pub role: String,
    /// Statements that give them, for an owner or an administrator.
    pub grants: Vec<String>,
    /// Whether not even Headwater's own bookkeeping can be read.
    pub is_blind: bool,
}

/// Looks in the catalogue, which every role may read, by object: a look-up by name fails without USAGE on the schema. An
/// object that does not exist yet needs no right, because Headwater will own it; the sequence of an identity column needs
/// none either. CASE, because the planner may ask for rights on a sequence before it knows that the object is one.
const MISSING: &str = "
    WITH relation AS (
      SELECT c.oid, c.relname, c.relkind, n.nspname,
        EXISTS (
          SELECT FROM pg_catalog.pg_depend d
          WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i'
        ) AS is_identity,
        EXISTS (
          SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
          WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
            AND t.relname = 'messages'
        ) AS counts_messages
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname IN ('message_store', 'headwater')
    ),
    routine AS (
      SELECT p.oid, p.proname, n.nspname
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'headwater'
        OR (n.nspname = 'message_store' AND p.proname IN ('category', 'cardinal_id', 'hash_64'))
    ),
    lacking (number, is_blind, rights, object) AS (
      SELECT 1, true, 'USAGE', format('SCHEMA %I', nspname)
      FROM pg_catalog.pg_namespace
      WHERE nspname IN ('message_store', 'headwater') AND NOT has_schema_privilege(oid, 'USAGE')
      UNION ALL
      SELECT 2, false, string_agg(needed, ', ' ORDER BY number), 'message_store.messages'
      FROM relation, unnest(ARRAY['SELECT', 'INSERT']) WITH ORDINALITY AS n (needed, number)
      WHERE nspname = 'message_store' AND relname = 'messages' AND NOT has_table_privilege(oid, needed)
      GROUP BY oid
      UNION ALL
      SELECT 3, false, 'USAGE', format('SEQUENCE %I.%I', nspname, relname)
      FROM relation
      WHERE nspname = 'message_store' AND counts_messages
        AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END
      UNION ALL
      SELECT 4, true, 'SELECT, INSERT, UPDATE, DELETE', 'ALL TABLES IN SCHEMA headwater'
      FROM relation, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
      WHERE nspname = 'headwater' AND relkind IN ('r', 'p') AND NOT has_table_privilege(oid, needed)
        -- Only migrations write to these.
        AND NOT (relname IN ('migrations', 'installation') AND needed <> 'SELECT')
      UNION ALL
      SELECT 5, false, 'USAGE', 'ALL SEQUENCES IN SCHEMA headwater'
      FROM relation
      WHERE nspname = 'headwater' AND NOT is_identity
        AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END
      UNION ALL
      SELECT 6, false, 'EXECUTE', format('ALL FUNCTIONS IN SCHEMA %I', nspname)
      FROM routine
      WHERE NOT has_function_privilege(oid, 'EXECUTE')
      UNION ALL
      SELECT 7, false, 'SELECT', 'pg_catalog.pg_locks'
      WHERE NOT has_table_privilege('pg_catalog.pg_locks', 'SELECT')
    )
    SELECT DISTINCT number, is_blind, format('GRANT %s ON %s TO %I', rights, object, current_user)
    FROM lacking
    ORDER BY number, 3";

impl Missing {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, MigrateError> {
        let at = || MigrateError::at("looking at this role's rights");
        let role = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut *connection).await.map_err(at())?;
        let rows = sqlx::query(MISSING).fetch_all(connection).await.map_err(at())?;
        Ok(Self {
            role,
            grants: rows.iter().map(|row| row.get(2)).collect(),
            is_blind: rows.iter().any(|row| row.get(1)),
        })
    }
}

/// The owner of what a migration changes, if that is another role, or how to be allowed to create it.
pub(super) async fn advice(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce(
           (
             SELECT format('Run `headwater migrate` as %I, who owns schema headwater', pg_get_userbyid(nspowner))
             FROM pg_catalog.pg_namespace
             WHERE nspname = 'headwater'
           ),
           format(
             'Run `headwater migrate` as an administrator, or: GRANT CREATE ON DATABASE %I TO %I',
             current_database(), current_user
           )
         )",
    )
    .fetch_one(connection)
    .await
}
