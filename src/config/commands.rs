//! The commands of the program.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::lasting;
use crate::domain::api_key;
use crate::domain::named::check_name;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Serve HTTP (what happens without a command, too)
    Serve,
    /// Install or update the schemas in the database in use, and say what was done
    Migrate {
        /// Only look, and fail if something is to be done
        #[arg(long)]
        check: bool,
        /// Add a trigger that notifies, where Message DB was installed before and does not
        #[arg(long)]
        notify_trigger: bool,
        /// Give this role the rights that a service needs, and print the statements (with `--check`: only print them)
        #[arg(long, value_name = "ROLE")]
        grant_to: Option<String>,
        /// What the service may do beyond reading and appending, separated by commas
        #[arg(long, value_enum, value_delimiter = ',', requires = "grant_to", value_name = "EXTRA")]
        grant: Vec<GrantExtra>,
    },
    /// Make, list and revoke API keys, in the database in use, whether the service runs or not
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Open a psql session on the database in use, the embedded one too
    Psql {
        /// Passed on to psql
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write all messages as NDJSON, one a line, in order of their global positions
    Export {
        /// File to write to; `-` is standard output
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Only messages after this global position
        #[arg(long, value_name = "POSITION", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        after: i64,
        /// Go on after the last whole line of the file
        #[arg(long, conflicts_with = "after")]
        resume: bool,
        /// Only messages of these categories, separated by commas
        #[arg(long, value_delimiter = ',', value_name = "CATEGORY")]
        categories: Vec<String>,
    },
    /// Read exported messages into the store; ids, positions, global positions and times stay. Goes on where it stopped
    Import {
        /// File to read; `-` is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Write after the messages that the store has, with new global positions
        #[arg(long)]
        append: bool,
        /// Only say what would be refused
        #[arg(long)]
        check: bool,
    },
    /// Back the embedded server up: all changes as they come, and base backups now and then, until it is stopped
    Backup {
        /// Directory of the backups; it has those of one store, and nothing else
        #[arg(long, value_name = "DIRECTORY")]
        to: PathBuf,
        /// One base backup and the changes up to its end, then end
        #[arg(long)]
        once: bool,
    },
    /// Make the embedded server's data of a backup, as it was at a time; the data directory must have none
    Restore {
        /// Directory of the backups
        #[arg(long, value_name = "DIRECTORY")]
        from: PathBuf,
        /// All that was committed up to this time (`2026-11-20T12:00:00Z`); everything without
        #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "list")]
        at: Option<Timestamp>,
        /// Only say which times can be restored
        #[arg(long)]
        list: bool,
    },
    /// Look at settings, machine and database, and say what is wrong and what to do; fails if something is. Changes nothing
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenAPI document
    Openapi {
        /// The version of OpenAPI: 3.2 describes the events of event streams too, and few generators read it yet
        #[arg(long, value_enum, default_value = "3.1")]
        version: OpenApiVersion,
    },
    /// Print what makes a shell complete commands and settings
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// Make a key, and print it: this once
    Create {
        /// What the key is for, in words
        #[arg(long, value_name = "TEXT", value_parser = key_name)]
        name: String,
        /// What the key allows: read:<pattern>, append:<pattern>, subscribe:<pattern> or admin; may be given several
        /// times. `*` in a pattern is any run of characters
        #[arg(long, required = true, value_name = "SCOPE")]
        scope: Vec<Scope>,
        /// How long the key can be used, such as 30d; for ever without
        #[arg(long, value_name = "DURATION", value_parser = lasting("1s", "10years"))]
        expires_in: Option<Duration>,
        /// Print what is known of the key too, as JSON
        #[arg(long)]
        json: bool,
    },
    /// List all keys, those that have expired or were revoked too; never the keys themselves
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke keys, for good: what was opened with them ends within seconds
    Revoke {
        /// Their ids, as the list shows them
        #[arg(required = true, value_name = "ID", value_parser = key_id)]
        ids: Vec<String>,
    },
}

/// Rights of the service's role that not every service needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GrantExtra {
    /// Trim streams, and keep categories at an age or a number
    Trim,
    /// Erase messages
    Erase,
    /// Import messages with their global positions
    Import,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OpenApiVersion {
    #[value(name = "3.1")]
    V3_1,
    #[value(name = "3.2")]
    V3_2,
}

fn time(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse_rfc3339(text).ok_or("must be a time as in RFC 3339: 2026-11-20T12:00:00Z")
}

fn key_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

/// A caller that gives a whole key is not shown it again.
fn key_id(text: &str) -> Result<String, &'static str> {
    let id = api_key::id_in(text).unwrap_or(text);
    if api_key::is_id(id) { Ok(id.to_owned()) } else { Err("must be the id of a key: the part after `hw_`") }
}
