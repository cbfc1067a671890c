//! What a migration did, or would do, as lines to print.
use std::fmt;

/// Where the objects in schema `message_store` come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Headwater did.
    Installed,
    /// Message DB was installed before: its objects are never changed.
    Attached,
}

/// One thing that changed, or would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    MigrationApplied {
        version: i32,
        name: String,
    },
    /// The migration belongs to `message_store`, and Message DB was installed before.
    MigrationSkipped {
        version: i32,
        name: String,
    },
    /// Version 0 means none.
    FunctionsInstalled {
        count: usize,
        from_version: i32,
        to_version: i32,
    },
    /// An earlier version had the function, and this one has not.
    FunctionDropped {
        signature: String,
    },
    RoleCreated {
        role: String,
    },
    RoleGranted {
        role: String,
    },
    NotifyTriggerAdded,
}

/// What an operator should know, although everything works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A newer version has migrated the database (a roll-out).
    NewerMigrations {
        database: i32,
        binary: i32,
    },
    /// A newer instance installed its functions. They stay.
    NewerFunctions {
        database: i32,
        binary: i32,
    },
    /// This user may not create the role, or may not grant rights to it.
    RoleRefused {
        role: String,
        reason: String,
    },
    /// The sequence has a cache, and the rule of the settled position needs a cache of 1.
    SequenceCache {
        sequence: String,
        cache: i64,
    },
    NoSequence,
    /// Rights are missing without which the service does not start.
    MissingRights {
        role: String,
        grants: Vec<String>,
    },
    /// An earlier version had the function, and an object of somebody else needs it.
    FunctionKept {
        signature: String,
        reason: String,
    },
    /// Somebody replaced or dropped the function after it was installed.
    FunctionReplaced {
        function: String,
    },
}

/// The outcome of [`run`](super::run) and [`check`](super::check).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    pub origin: Origin,
    /// Done, or still to be done if this was only a look.
    pub changes: Vec<Change>,
    pub notices: Vec<Notice>,
    pub only_checked: bool,
}

impl MigrationReport {
    /// Whether nothing was to be done.
    pub fn is_up_to_date(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.what_changed();
        lines.extend(self.notices.iter().map(|notice| format!("note: {notice}")));
        lines
    }

    /// The lines without the notices.
    pub fn what_changed(&self) -> Vec<String> {
        let mut lines = vec![
            match self.origin {
                Origin::Installed => "message_store is Headwater's own",
                Origin::Attached => "message_store is an installed Message DB: its objects stay as they are",
            }
            .to_owned(),
        ];
        let prefix = if self.only_checked { "to do: " } else { "done: " };
        lines.extend(self.changes.iter().map(|change| format!("{prefix}{change}")));
        if self.is_up_to_date() {
            lines.push("nothing to do: the database is up to date".to_owned());
        }
        lines
    }
}

impl fmt::Display for MigrationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MigrationApplied { version, name } => {
                write!(f, "migration {version} ({name}): apply")
            }
            Self::MigrationSkipped { version, name } => {
                write!(f, "migration {version} ({name}): skip, Message DB has it already")
            }
            Self::FunctionsInstalled { count, from_version: 0, to_version } => {
                write!(f, "functions: install {count} of version {to_version}")
            }
            Self::FunctionsInstalled { count, from_version, to_version } => {
                write!(f, "functions: install {count} of version {to_version} in place of version {from_version}")
            }
            Self::FunctionDropped { signature } => write!(f, "function {signature} of an earlier version: drop"),
            Self::RoleCreated { role } => write!(f, "role {role}: create"),
            Self::RoleGranted { role } => {
                write!(f, "role {role}: grant its rights on message_store")
            }
            Self::NotifyTriggerAdded => f.write_str("trigger headwater_notify on message_store.messages: add"),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerMigrations { database, binary } => write!(
                f,
                "the database is at migration {database}, this binary knows {binary}: a newer instance was here"
            ),
            Self::NewerFunctions { database, binary } => write!(
                f,
                "functions of version {database} stay, this binary's are of version {binary}: a newer instance was here"
            ),
            Self::RoleRefused { role, reason } => write!(
                f,
                "role {role} was refused ({reason}), its rights are skipped. Headwater does not need it; \
                 for programs that log in as {role}, create it as an administrator and migrate again"
            ),
            Self::SequenceCache { sequence, cache } => write!(
                f,
                "sequence {sequence} has a cache of {cache}: followers may skip messages. \
                 Set it right: ALTER SEQUENCE {sequence} CACHE 1"
            ),
            Self::MissingRights { role, grants } => {
                write!(f, "role {role} lacks rights that the service needs: {}", grants.join("; "))
            }
            Self::FunctionKept { signature, reason } => {
                write!(f, "function {signature} of an earlier version is needed no more, and stays: {reason}")
            }
            Self::FunctionReplaced { function } => write!(
                f,
                "function {function} is not the one that was installed: somebody replaced or dropped it. To have it again: \
                 UPDATE headwater.installation SET functions_version = 0, then `headwater migrate`"
            ),
            Self::NoSequence => f.write_str(
                "message_store.messages.global_position owns no sequence: its cache, on which followers rest, is not known to be 1",
            ),
        }
    }
}
