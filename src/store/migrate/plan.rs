//! Decides from what is in the database what is to be done. No SQL here.
use super::found::Found;
use super::report::{Change, Notice, Origin};
use super::schema::{Migration, Schema};
use super::{MigrateError, MigrateOptions};

pub(super) enum MigrationStep<'a> {
    Apply(&'a Migration),
    /// Recorded, not executed.
    Skip(&'a Migration),
    InstallFunctions {
        from_version: i32,
    },
    /// Creates the role if it is missing, and gives it its rights once.
    GrantRole,
    AddNotifyTrigger,
}

pub(super) struct Plan<'a> {
    pub origin: Origin,
    pub steps: Vec<MigrationStep<'a>>,
    pub notices: Vec<Notice>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(found: &Found, schema: &'a Schema, options: &MigrateOptions) -> Result<Self, MigrateError> {
        if !found.incompatible.is_empty() {
            return Err(MigrateError::IncompatibleMessageStore { problems: found.incompatible.clone() });
        }
        check_serves(found, schema)?;
        let mut plan = Self { origin: found.origin(), steps: Vec::new(), notices: Vec::new() };
        plan.check_applied(found, schema)?;
        plan.add_migrations(found, schema)?;
        plan.add_functions(found, schema);
        plan.add_role(found, schema);
        if options.notify_trigger && !found.notify_trigger {
            plan.steps.push(MigrationStep::AddNotifyTrigger);
        }
        plan.note_sequence(found);
        plan.note_replaced(found, schema);
        if !found.missing_rights.grants.is_empty() {
            let missing = found.missing_rights.clone();
            plan.notices.push(Notice::MissingRights { role: missing.role, grants: missing.grants });
        }
        Ok(plan)
    }

    fn is_attached(&self) -> bool {
        self.origin == Origin::Attached
    }

    /// Checks that the applied migrations are those of this binary, up to the newest that it knows.
    fn check_applied(&mut self, found: &Found, schema: &Schema) -> Result<(), MigrateError> {
        let newest_known = schema.newest_version();
        for applied in found.applied.iter().filter(|applied| applied.version <= newest_known) {
            let Some(known) = schema.migrations.iter().find(|known| known.version == applied.version) else {
                return Err(MigrateError::UnknownMigration {
                    version: applied.version,
                    name: applied.name.clone(),
                    newest_known,
                });
            };
            let embedded = known.checksum();
            if embedded != applied.checksum {
                return Err(MigrateError::ChecksumChanged {
                    version: applied.version,
                    name: applied.name.clone(),
                    applied: applied.checksum.clone(),
                    embedded,
                });
            }
        }
        if found.newest_applied() > newest_known {
            let (database, binary) = (found.newest_applied(), newest_known);
            self.notices.push(Notice::NewerMigrations { database, binary });
        }
        Ok(())
    }

    fn add_migrations(&mut self, found: &Found, schema: &'a Schema) -> Result<(), MigrateError> {
        let newest_applied = found.newest_applied();
        for migration in &schema.migrations {
            if found.applied.iter().any(|applied| applied.version == migration.version) {
                continue;
            }
            if migration.version < newest_applied {
                return Err(MigrateError::MissedMigration {
                    version: migration.version,
                    name: migration.name.to_string(),
                    newest_applied,
                });
            }
            let skipped = self.is_attached() && migration.is_of_message_store();
            self.steps.push(if skipped { MigrationStep::Skip(migration) } else { MigrationStep::Apply(migration) });
        }
        Ok(())
    }

    /// Installs functions unless a newer version has, or the same version with the same text (another text is a
    /// developer's). A database with newer migrations has its functions from that newer instance, even if their version
    /// was not raised.
    fn add_functions(&mut self, found: &Found, schema: &Schema) {
        let (database, checksum) = match &found.installation {
            Some(installation) => (installation.functions_version, installation.functions_checksum.as_str()),
            None => (0, ""),
        };
        let binary = schema.functions_version;
        if database > binary {
            self.notices.push(Notice::NewerFunctions { database, binary });
        } else if found.newest_applied() <= schema.newest_version()
            && (database < binary || checksum != schema.functions_checksum(self.is_attached()))
        {
            self.steps.push(MigrationStep::InstallFunctions { from_version: database });
        }
    }

    /// Plans the role of Message DB's contract. Headwater itself does not need it.
    fn add_role(&mut self, found: &Found, schema: &Schema) {
        let refusal = match &found.installation {
            _ if self.is_attached() => return,
            Some(installation) if installation.role_granted => return,
            Some(installation) => installation.role_refusal.as_ref(),
            None => None,
        };
        match refusal {
            Some(reason) if !found.role_exists => {
                let role = schema.role.to_string();
                self.notices.push(Notice::RoleRefused { role, reason: reason.clone() });
            }
            _ => self.steps.push(MigrationStep::GrantRole),
        }
    }

    fn note_sequence(&mut self, found: &Found) {
        match &found.sequence {
            Some(sequence) if sequence.cache != 1 => {
                self.notices.push(Notice::SequenceCache { sequence: sequence.name.clone(), cache: sequence.cache });
            }
            None if found.messages_exist => self.notices.push(Notice::NoSequence),
            Some(_) | None => {}
        }
    }

    /// Notes functions that are not the ones that were installed, if this binary's version was.
    fn note_replaced(&mut self, found: &Found, schema: &Schema) {
        let attached = self.is_attached();
        let is_ours = found.installation.as_ref().is_some_and(|installation| {
            installation.functions_version == schema.functions_version
                && installation.functions_checksum == schema.functions_checksum(attached)
        });
        for function in schema.functions(attached).filter(|_| is_ours) {
            let (in_schema, name) = function.qualified_name();
            let is_installed = found.functions.iter().any(|installed| {
                installed.schema == in_schema && installed.name == name && installed.body == function.body()
            });
            if !is_installed {
                self.notices.push(Notice::FunctionReplaced { function: format!("{in_schema}.{name}") });
            }
        }
    }

    /// What the steps would change, for a check.
    pub(super) fn changes(&self, schema: &Schema) -> Vec<Change> {
        self.steps.iter().map(|step| step.change(schema, self.is_attached())).collect()
    }
}

/// Refuses to begin where a newer version has put something else in the place of what this binary calls.
fn check_serves(found: &Found, schema: &Schema) -> Result<(), MigrateError> {
    let (binary, installation) = (schema.functions_version, found.installation.as_ref());
    match installation.map(|installation| (installation.functions_version, installation.functions_serve_from)) {
        Some((database, serve_from)) if serve_from > binary => {
            Err(MigrateError::TooOld { database, serve_from, binary })
        }
        Some(_) | None => Ok(()),
    }
}

impl MigrationStep<'_> {
    pub(super) fn change(&self, schema: &Schema, attached: bool) -> Change {
        match self {
            Self::Apply(migration) => {
                Change::MigrationApplied { version: migration.version, name: migration.name.to_string() }
            }
            Self::Skip(migration) => {
                Change::MigrationSkipped { version: migration.version, name: migration.name.to_string() }
            }
            Self::InstallFunctions { from_version } => Change::FunctionsInstalled {
                count: schema.functions(attached).count(),
                from_version: *from_version,
                to_version: schema.functions_version,
            },
            Self::GrantRole => Change::RoleGranted { role: schema.role.to_string() },
            Self::AddNotifyTrigger => Change::NotifyTriggerAdded,
        }
    }
}
