//! Looks at the database: version, schema, rights, settings, clock, locks, notifications, and whether the rule of the settled
//! position holds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Findings, backup};
use crate::app;
use crate::config::Settings;
use crate::domain::signal::Signal;
use crate::store::gap_rule::GapRuleError;
use crate::store::inspection::{LongTransaction, Numbering, ServerFacts};
use crate::store::migrate::{self, MigrateError, MigrateOptions, Notice};
use crate::store::{Database, PoolerError, Session, StoreError};

/// The first version that is supported.
const VERSION_NUMBER_MIN: i32 = 140_000;
/// The clocks of this machine and of the database may differ by so much: what expires (JWTs, tickets) is judged by this
/// machine, messages have their times from the database.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);
/// Connections that a service has beside its pool: agents, and appends that wait for locked categories.
const CONNECTIONS_OF_AGENTS: i64 = 10;
/// PostgreSQL stops taking writes at two thousand million.
const FROZEN_AGE_MAX: i64 = 1_500_000_000;
const NOTIFICATION_QUEUE_MAX: f64 = 0.5;
/// How long a notification may take from one session to another.
const NOTIFY_WAIT: Duration = Duration::from_secs(3);
const IDLE_SLOT_BYTES_MAX: i64 = 10 << 30;

pub async fn look(settings: &Settings, url: &str, is_embedded: bool, findings: &mut Findings) {
    let database = match app::open_database(settings, url) {
        Ok(database) => database,
        Err(error) => return findings.wrong("database", error.to_string(), "correct --database-url"),
    };
    let looked_at = async {
        let session = database.inspection_session().await?;
        let (before, facts, after) = (now(), session.server_facts().await?, now());
        Ok::<_, StoreError>((session, facts, (before, after)))
    };
    match looked_at.await {
        Ok((session, facts, clock)) => {
            let kind = if is_embedded { "embedded " } else { "" };
            findings.ok("database", format!("{kind}PostgreSQL {} answers", facts.version));
            judge_server(settings, &facts, findings);
            judge_clock(facts.clock, clock, findings);
            look_at_pooler(settings, &database, findings).await;
            look_at_schema(settings, &database, &session, url, findings).await;
            look_at_notifications(&database, findings).await;
            if is_embedded {
                backup::look(settings, &database, findings).await;
            }
        }
        Err(error) => findings.wrong("database", error.to_string(), "start it, or correct --database-url"),
    }
    database.close();
}

/// Whether the pooler leads where the direct URL does.
async fn look_at_pooler(settings: &Settings, database: &Database, findings: &mut Findings) {
    if settings.direct_database_url.is_none() {
        return;
    }
    match database.check_pooler().await {
        Ok(()) => findings.ok("pooler", "leads to the same database as --direct-database-url"),
        Err(error @ PoolerError::OtherDatabase { .. }) => {
            findings.wrong("pooler", error.to_string(), "the service does not start before that is corrected");
        }
        Err(error @ PoolerError::Unknown(_)) => {
            findings.wrong("pooler", error.to_string(), "start the pooler, or correct --database-url");
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn judge_server(settings: &Settings, facts: &ServerFacts, findings: &mut Findings) {
    if facts.version_number < VERSION_NUMBER_MIN {
        findings.wrong("postgresql", format!("version {}", facts.version), "use version 14 or newer");
    }
    if facts.is_in_recovery {
        findings.wrong(
            "primary",
            "this server is a replica, and takes no writes",
            "name the primary in --database-url",
        );
    }
    if facts.default_transaction_read_only {
        let advice = "ALTER ROLE … RESET default_transaction_read_only, or the same of the database or the server";
        findings.wrong("read_only", "default_transaction_read_only is on: appends are refused", advice);
    }
    for (name, is_on) in [("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)] {
        if !is_on {
            let found = format!("{name} is off: a crash of the machine may lose or destroy what was acknowledged");
            findings.wrong("durability", found, format!("ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()"));
        }
    }
    if facts.synchronous_commit == "off" {
        let found = "synchronous_commit is off for other programs: a crash may lose what they wrote last, and followers get \
            it once it is on disk. The service's own commits wait for the disk";
        findings.note("durability", found, Some("leave it on where messages are written"));
    } else if facts.fsync && facts.full_page_writes {
        findings.ok("durability", format!("fsync on, synchronous_commit {}", facts.synchronous_commit));
    }
    if !facts.autovacuum {
        let found = "autovacuum is off: estimates grow old, and what was trimmed keeps its place on disk";
        findings.wrong("vacuum", found, "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()");
    }
    if facts.frozen_age > FROZEN_AGE_MAX {
        let found = format!("{} transactions since the oldest row that is not frozen", facts.frozen_age);
        findings.wrong("vacuum", found, "VACUUM FREEZE in this database; end what is open for long");
    }
    judge_connections(settings, facts, findings);
    judge_replication(facts, findings);
}

fn judge_connections(settings: &Settings, facts: &ServerFacts, findings: &mut Findings) {
    let locked = settings.append_locked_categories_max as i64;
    let wanted = settings.database_connections_max as i64 + CONNECTIONS_OF_AGENTS + locked;
    let (open, max) = (facts.connections, facts.connections_max);
    let found = format!("{open} of {max} are open; a service needs up to {wanted}");
    let advice = "raise max_connections, or lower --database-connections-max";
    if wanted > max || open >= max {
        findings.wrong("connections", found, advice);
    } else {
        findings.ok("connections", found);
    }
}

fn judge_replication(facts: &ServerFacts, findings: &mut Findings) {
    if !facts.synchronous_standby_names.is_empty() && facts.synchronous_standbys == Some(0) {
        let found = format!("no standby of synchronous_standby_names ({}) is there", facts.synchronous_standby_names);
        findings.wrong("replication", found, "commits wait for one: start it, or change synchronous_standby_names");
    }
    if facts.is_archiving_failing {
        let found = "the last attempt to archive WAL failed: it piles up on the disk, and the backup has a gap";
        findings.wrong("archive", found, "see the log of PostgreSQL for archive_command");
    }
    if facts.idle_slot_bytes > IDLE_SLOT_BYTES_MAX {
        let found = format!("a replication slot that nobody reads keeps {} GB of WAL", facts.idle_slot_bytes >> 30);
        let advice = "start its reader, or SELECT pg_drop_replication_slot(…): SELECT * FROM pg_replication_slots";
        findings.wrong("replication", found, advice);
    }
    if facts.notification_queue_usage > NOTIFICATION_QUEUE_MAX {
        let share = facts.notification_queue_usage * 100.0;
        let found =
            format!("{share:.0} % of PostgreSQL's queue of notifications is in use: when it is full, commits fail");
        findings.wrong("notify", found, "end the session that listens in a transaction that is open for long");
    }
}

fn judge_clock(of_database: f64, (before, after): (f64, f64), findings: &mut Findings) {
    let difference = if of_database < before { of_database - before } else { (of_database - after).max(0.0) };
    if difference.abs() > CLOCK_DIFFERENCE_MAX.as_secs_f64() {
        let direction = if difference > 0.0 { "ahead of" } else { "behind" };
        let found = format!("the database's is {:.1} s {direction} this machine's", difference.abs());
        findings.wrong(
            "clock",
            found,
            "synchronise both (NTP): credentials expire by one, messages get times by the other",
        );
    } else {
        findings.ok("clock", "that of the database agrees with this machine's");
    }
}

async fn look_at_schema(
    settings: &Settings,
    database: &Database,
    session: &Session,
    url: &str,
    findings: &mut Findings,
) {
    let report = match migrate::check(url, &MigrateOptions::default()).await {
        Ok(report) => report,
        Err(error @ (MigrateError::NotAllowed { .. } | MigrateError::MissingRights { .. })) => {
            let advice = "as the owner of the schemas: `headwater migrate --grant-to ROLE`";
            return findings.wrong("rights", error.to_string(), advice);
        }
        Err(error) => return findings.wrong("schema", error.to_string(), "see `headwater migrate --check`"),
    };
    let is_there = match report.changes.len() {
        0 => {
            findings.ok("schema", "up to date");
            true
        }
        count => {
            let found = format!("{count} things are to do in the database");
            findings.note("schema", found, Some("`headwater migrate --check` lists them; the next start does them"));
            database.has_schema().await.is_ok_and(|has_schema| has_schema)
        }
    };
    for notice in &report.notices {
        judge_notice(notice, findings);
    }
    if !is_there {
        return;
    }
    match database.check_gap_rule().await {
        Ok(()) => findings.ok("gap_rule", "the server shows who holds its locks"),
        Err(GapRuleError::Unknown(error)) => findings.unknown("gap_rule", error.to_string()),
        Err(error @ GapRuleError::Broken { .. }) => {
            findings.wrong("gap_rule", error.to_string(), "use PostgreSQL itself");
        }
    }
    match session.long_transactions(settings.held_back_warning).await {
        Ok(found) if found.is_empty() => {
            findings.ok("open_transactions", format!("none is open for over {:?}", settings.held_back_warning));
        }
        Ok(found) => found.iter().for_each(|one| judge_transaction(one, findings)),
        Err(error) => findings.unknown("open_transactions", error.to_string()),
    }
    match session.numbering().await {
        Ok(numbering) => judge_numbering(numbering, findings),
        Err(error) => findings.unknown("sequence", error.to_string()),
    }
}

fn judge_notice(notice: &Notice, findings: &mut Findings) {
    match notice {
        Notice::SequenceCache { sequence, .. } => {
            findings.wrong("sequence", notice.to_string(), format!("ALTER SEQUENCE {sequence} CACHE 1"));
        }
        Notice::MissingRights { grants, .. } => findings.wrong("rights", notice.to_string(), grants.join("; ")),
        Notice::FunctionReplaced { .. } => {
            let advice = "UPDATE headwater.installation SET functions_version = 0, then `headwater migrate`";
            findings.wrong("schema", notice.to_string(), advice);
        }
        Notice::NoSequence
        | Notice::NewerMigrations { .. }
        | Notice::NewerFunctions { .. }
        | Notice::RoleRefused { .. }
        | Notice::FunctionKept { .. } => findings.note("schema", notice.to_string(), None),
    }
}

fn judge_transaction(one: &LongTransaction, findings: &mut Findings) {
    let seconds = one.seconds.map_or("an unknown time".to_owned(), |seconds| format!("{seconds:.0} s"));
    let program = one.application_name.as_deref().unwrap_or("an unknown program");
    let state = one.state.as_deref().unwrap_or("in an unknown state");
    let does = match one.mode.as_str() {
        "RowExclusiveLock" => "keeps messages that were written after it from followers",
        _ => "keeps everybody from writing",
    };
    let (who, advice) = match (one.pid, &one.prepared_as) {
        (Some(pid), _) => {
            (format!("process {pid} ({program}, {state})"), format!("end it: SELECT pg_terminate_backend({pid})"))
        }
        (None, Some(name)) => (
            format!("the prepared transaction {name:?}"),
            format!("COMMIT PREPARED '{name}', or ROLLBACK PREPARED '{name}'"),
        ),
        (None, None) => ("a prepared transaction".to_owned(), "see pg_prepared_xacts".to_owned()),
    };
    findings.wrong("open_transactions", format!("{who} has been open for {seconds}, and {does}"), advice);
}

fn judge_numbering(numbering: Numbering, findings: &mut Findings) {
    match numbering.given {
        Some(given) if given < numbering.head => {
            let head = numbering.head;
            let found = format!("the last message has global position {head}, and the sequence has given {given}");
            let advice = format!(
                "messages beyond it wait: SELECT setval(pg_get_serial_sequence('message_store.messages', \
                 'global_position'), {head})"
            );
            findings.wrong("sequence", found, advice);
        }
        Some(given) => findings.ok("sequence", format!("has given {given} positions")),
        None => findings.unknown("sequence", "this role may not look at it"),
    }
}

async fn look_at_notifications(database: &Database, findings: &mut Findings) {
    // An id that no subscription has, so that nobody does anything when they hear it.
    let mark = -(i64::from(std::process::id()) + 1);
    let asking = async {
        let (_session, mut heard) = database.listen(NOTIFY_WAIT).await?;
        database.notify(&[Signal::Changed(vec![mark])]).await?;
        loop {
            match heard.recv().await {
                Some(Ok(Some(Signal::Changed(ids)))) if ids == [mark] => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(StoreError::Unavailable(error)),
                None => return Err(StoreError::Unavailable("the connection was closed".into())),
            }
        }
    };
    let advice = "connect directly, or through a pooler in session mode: one in transaction mode loses LISTEN. Messages of \
        other instances come with the poll meanwhile";
    match tokio::time::timeout(NOTIFY_WAIT, asking).await {
        Ok(Ok(())) => findings.ok("notify", "a notification has come from one session to another"),
        Ok(Err(error)) => findings.wrong("notify", error.to_string(), advice),
        Err(_) => findings.wrong("notify", format!("no notification came within {NOTIFY_WAIT:?}"), advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn facts() -> ServerFacts {
        ServerFacts {
            version: "15.8".into(),
            version_number: 150_008,
            is_in_recovery: false,
            fsync: true,
            full_page_writes: true,
            autovacuum: true,
            synchronous_commit: "on".into(),
            default_transaction_read_only: false,
            connections: 5,
            connections_max: 97,
            clock: 0.0,
            frozen_age: 1_000,
            notification_queue_usage: 0.0,
            synchronous_standby_names: String::new(),
            synchronous_standbys: Some(0),
            is_archiving_failing: false,
            idle_slot_bytes: 0,
        }
    }

    fn wrong(facts: &ServerFacts) -> Vec<&'static str> {
        let mut findings = Findings::default();
        judge_server(&Settings::defaults(), facts, &mut findings);
        findings.0.iter().filter(|finding| finding.level == Level::Wrong).map(|finding| finding.check).collect()
    }

    /// What a test cannot do to a server that others use.
    #[test]
    fn each_fault_of_a_server_is_named() {
        assert_eq!(wrong(&facts()), Vec::<&str>::new());
        type Change = fn(&mut ServerFacts);
        let changes: [(&str, Change); 13] = [
            ("postgresql", |facts| facts.version_number = 130_022),
            ("primary", |facts| facts.is_in_recovery = true),
            ("read_only", |facts| facts.default_transaction_read_only = true),
            ("durability", |facts| facts.fsync = false),
            ("durability", |facts| facts.full_page_writes = false),
            ("vacuum", |facts| facts.autovacuum = false),
            ("vacuum", |facts| facts.frozen_age = 1_900_000_000),
            ("connections", |facts| facts.connections = 97),
            ("connections", |facts| facts.connections_max = 20),
            ("replication", |facts| facts.synchronous_standby_names = "one".into()),
            ("archive", |facts| facts.is_archiving_failing = true),
            ("replication", |facts| facts.idle_slot_bytes = 20 << 30),
            ("notify", |facts| facts.notification_queue_usage = 0.9),
        ];
        for (check, change) in changes {
            let mut facts = facts();
            change(&mut facts);
            assert_eq!(wrong(&facts), [check]);
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        for (of_database, expected) in
            [(100.0, Level::Ok), (100.6, Level::Ok), (96.0, Level::Ok), (106.7, Level::Wrong), (94.9, Level::Wrong)]
        {
            let mut findings = Findings::default();
            judge_clock(of_database, (100.0, 101.0), &mut findings);
            assert_eq!(findings.0[0].level, expected, "{of_database}");
        }
    }
}
