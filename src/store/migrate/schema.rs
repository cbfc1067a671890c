//! The SQL that this binary carries: numbered migrations, and functions in their current text.
use sqlx::migrate::MigrationType;
use sqlx::{AssertSqlSafe, SqlSafeStr};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Raised by hand with every release that changes a file under `migrations/functions/`: it keeps an older instance
/// that restarts during a roll-out from putting its own functions in the place of newer ones.
pub const FUNCTIONS_VERSION: i32 = 2;

/// The oldest version of the service whose calls these functions and tables serve. Raised with a release that drops or
/// changes what the release before it calls: instances of that one then refuse to work, and say so.
pub const FUNCTIONS_SERVE_FROM: i32 = 2;

/// Functions of version 1 that later ones have not. From version 2 on the database has a list of its own.
pub(super) const FORMER_FUNCTIONS: &[&str] = &[
    "is_standing",
    "judge_standing_ids",
    "subscription_ack_upto",
    "subscription_blame",
    "subscription_failures",
    "subscription_leave_out",
    "subscription_look",
    "subscription_low_water",
    "subscription_rewind",
];

/// The role of Message DB's contract.
pub const MESSAGE_STORE_ROLE: &str = "message_store";

/// A numbered migration. Once released it is immutable.
#[derive(Debug, Clone)]
pub struct Migration {
    pub version: i32,
    pub name: Cow<'static, str>,
    pub sql: Cow<'static, str>,
}

impl Migration {
    /// Whether it belongs to schema `message_store` (its name begins with it), and is skipped where Message DB was
    /// there before us.
    pub fn is_of_message_store(&self) -> bool {
        self.name.starts_with("message_store")
    }

    pub fn checksum(&self) -> String {
        checksum(&self.sql)
    }
}

/// One file under `migrations/functions/`.
#[derive(Debug, Clone)]
pub struct Function {
    /// Below `migrations/functions/` and without `.sql`: `message_store/category`, `append_batch`.
    pub path: Cow<'static, str>,
    pub sql: Cow<'static, str>,
}

impl Function {
    pub fn is_of_message_store(&self) -> bool {
        self.path.starts_with("message_store/")
    }

    /// Its schema and its name.
    pub(super) fn qualified_name(&self) -> (&str, &str) {
        self.path.split_once('/').unwrap_or(("headwater", &self.path))
    }

    /// The text that PostgreSQL keeps as the function's source: what is between the dollar signs.
    pub(super) fn body(&self) -> &str {
        self.sql.split_once("$$").and_then(|(_, rest)| rest.rsplit_once("$$")).map_or("", |(body, _)| body)
    }
}

/// Everything that is installed. Tests change a copy to act as an older or newer binary.
#[derive(Debug, Clone)]
pub struct Schema {
    pub migrations: Vec<Migration>,
    pub functions: Vec<Function>,
    pub functions_version: i32,
    pub functions_serve_from: i32,
    pub role: Cow<'static, str>,
}

impl Schema {
    /// What this binary carries.
    pub fn embedded() -> Self {
        Self {
            migrations: MIGRATIONS.iter().map(|&(file, sql)| numbered(file, sql)).collect(),
            functions: FUNCTIONS.iter().map(|&(path, sql)| Function { path: path.into(), sql: sql.into() }).collect(),
            functions_version: FUNCTIONS_VERSION,
            functions_serve_from: FUNCTIONS_SERVE_FROM,
            role: MESSAGE_STORE_ROLE.into(),
        }
    }

    pub(super) fn newest_version(&self) -> i32 {
        self.migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
    }

    /// The functions to install: without those of `message_store` where Message DB was there before us.
    pub(super) fn functions(&self, attached: bool) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(move |function| !(attached && function.is_of_message_store()))
    }

    pub(super) fn functions_checksum(&self, attached: bool) -> String {
        let mut texts = String::new();
        for function in self.functions(attached) {
            texts.push_str(&function.path);
            texts.push('\n');
            texts.push_str(&function.sql);
        }
        checksum(&texts)
    }

    /// The GRANTs for this schema's role.
    pub(super) fn grants(&self) -> String {
        GRANTS.replace(":\"role\"", &quoted(&self.role))
    }
}

/// The trigger that notifies after each INSERT, if the operator asks for it.
pub(super) const NOTIFY_TRIGGER: &str = include_str!("../../../migrations/notify_trigger.sql");
const GRANTS: &str = include_str!("../../../migrations/grants.sql");

/// The files `migrations/<number>_<name>.sql` and those of `migrations/functions`, without `.sql`; `build.rs` lists them.
const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
const FUNCTIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations_functions.rs"));

/// `0002_message_store` is version 2 with the name `message_store`.
fn numbered(file: &'static str, sql: &'static str) -> Migration {
    let (number, name) = file.split_once('_').unwrap_or((file, ""));
    let version = number.parse().unwrap_or_else(|_| panic!("migrations/{file}.sql does not begin with a number"));
    Migration { version, name: name.into(), sql: sql.into() }
}

/// An SQL identifier, whatever it holds.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// SHA-384 in hexadecimal, which sqlx computes for a migration.
fn checksum(text: &str) -> String {
    let sql = AssertSqlSafe(text).into_sql_str();
    let migration = sqlx::migrate::Migration::new(0, "".into(), MigrationType::Simple, sql, false);
    migration.checksum.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_migrations_ascend() {
        let versions: Vec<_> = Schema::embedded().migrations.iter().map(|migration| migration.version).collect();
        assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
    }

    #[test]
    fn every_function_is_replaced_and_qualified() {
        for function in Schema::embedded().functions {
            let schema = if function.is_of_message_store() { "message_store" } else { "headwater" };
            let name = function.path.rsplit('/').next().expect("a path has a last part");
            let opening = format!("CREATE OR REPLACE FUNCTION {schema}.{name}(");
            assert!(function.sql.contains(&opening), "{} does not hold `{opening}`", function.path);
        }
    }
}
