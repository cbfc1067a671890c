//! Writes batches of exported messages with `COPY`: each batch whole, and once, however often it is tried.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::session::CopyError;
use super::{Database, Session, StoreError};
use crate::domain::exported_message::ExportedMessage;
use crate::domain::time::Timestamp;

/// A statement of an import that takes longer is given up, and its batch tried again: it may wait for other writers.
const LIMIT: (Duration, &str) = (Duration::from_secs(120), "a batch of the import");

/// What becomes of the positions of the whole log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// Global positions stay as they are: the store's log is the beginning of what is imported.
    Restore,
    /// Messages come after those that are there, with new global positions.
    Append,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Messages that were there already.
    pub duplicates: usize,
    /// The last global position that was written.
    pub last_position: Option<i64>,
}

/// Why nothing of a batch was written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The message of the batch (from 0) that cannot be written, and why.
    #[error("{reason}")]
    Refused { nth: usize, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What follows where an import that keeps global positions is refused.
const KEPT_POSITIONS: &str = "Global positions are kept only where the store's log is empty, or the beginning of what is \
    imported; --append gives new ones";
/// The signature of binary `COPY`, its flags, and the length of its extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a row's number of fields: the end.
const TRAILER: i16 = -1;
/// The version of binary `jsonb`.
const JSONB: u8 = 1;

const HAS_MESSAGES: &str = "SELECT to_regclass('message_store.messages') IS NOT NULL";
/// The messages between two global positions.
const BETWEEN: &str = "SELECT global_position, id FROM message_store.messages \
    WHERE global_position > $1 AND global_position <= $2 ORDER BY global_position";
/// The messages that have these ids.
const BY_ID: &str = "SELECT b.nth, m.stream_name, m.position, m.type FROM unnest($1::uuid[]) WITH ORDINALITY \
    AS b (id, nth) JOIN message_store.messages AS m ON m.id = b.id ORDER BY b.nth";
/// Streams that have come to a position, or farther.
const COME_TO: &str = "SELECT s.nth, v.position FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY \
    AS s (stream_name, position, nth) CROSS JOIN LATERAL (SELECT m.position FROM message_store.messages AS m \
    WHERE m.stream_name = s.stream_name ORDER BY m.position DESC LIMIT 1) AS v WHERE v.position >= s.position LIMIT 1";
/// As `write_message` locks them, and in the order in which an append does.
const LOCK_CATEGORIES: &str = "SELECT count(pg_advisory_xact_lock(k.key)) FROM (SELECT DISTINCT \
    message_store.hash_64(message_store.category(s.stream_name)) AS key FROM unnest($1::text[]) AS s (stream_name) \
    ORDER BY 1) AS k";
/// The second mode is the one by which readers of the log's end know of a writer.
const LOCK_TABLE: &str = "LOCK TABLE message_store.messages IN SHARE ROW EXCLUSIVE MODE; \
    LOCK TABLE message_store.messages IN ROW EXCLUSIVE MODE";
/// The end of the log, and what its sequence has given.
const END: &str = "SELECT coalesce(max(global_position), 0), coalesce(pg_sequence_last_value(\
    pg_get_serial_sequence('message_store.messages', 'global_position')::regclass), 0) FROM message_store.messages";
/// Readers may have settled positions that are given to messages only now: to them it is another log.
const BEGIN_HISTORY: &str = "SELECT headwater.begin_history((SELECT history FROM headwater.settled_position), \
    NOT EXISTS (SELECT FROM message_store.messages))";
/// Erasures are counted one by one, and an erasure takes its number before a lock on messages.
const LOCK_ERASURES: &str = "SELECT number FROM headwater.erasures FOR UPDATE";
const ADD_ERASURES: &str = "WITH e AS (SELECT * FROM unnest($1::uuid[], $2::timestamp[], $3::text[]) WITH ORDINALITY \
    AS e (id, erased_at, reason, nth)), n AS (UPDATE headwater.erasures SET number = number + (SELECT count(*) FROM e) \
    RETURNING number - (SELECT count(*) FROM e) AS before) \
    INSERT INTO headwater.erased_messages (id, number, stream_name, global_position, erased_at, reason) \
    SELECT m.id, n.before + e.nth, m.stream_name, m.global_position, e.erased_at AT TIME ZONE 'utc', e.reason \
    FROM n CROSS JOIN e JOIN message_store.messages AS m ON m.id = e.id \
    ON CONFLICT (id) DO UPDATE SET number = excluded.number, stream_name = excluded.stream_name, \
    global_position = excluded.global_position, erased_at = excluded.erased_at, reason = excluded.reason, trimmed_at = NULL";
const SET_SEQUENCE: &str =
    "SELECT setval(pg_get_serial_sequence('message_store.messages', 'global_position')::regclass, $1)";

impl Database {
    /// Whether there is a table of messages, whoever has made it.
    pub async fn has_messages(&self) -> Result<bool, StoreError> {
        let rows = self.client().await?.query_typed(HAS_MESSAGES, &[]).await?;
        rows.first().map_or(Ok(false), |row| column(row, 0))
    }

    /// A session for an import.
    pub async fn import_session(&self) -> Result<Session, StoreError> {
        Session::open(self, Some(LIMIT)).await
    }
}

/// What a batch has that is to be written.
struct Judged<'a> {
    /// Messages that are there already.
    duplicates: usize,
    /// The others, with their places in the batch.
    new: Vec<(usize, &'a ExportedMessage)>,
}

/// The steps of an import.
impl Session {
    /// Writes what is not there yet of a batch, which is in order; all of that, or nothing. `after`: the global position
    /// of the message before it. May be called again after an error whose outcome is in doubt.
    pub async fn import(
        &self,
        batch: &[ExportedMessage],
        after: i64,
        mode: ImportMode,
    ) -> Result<Imported, ImportError> {
        // A batch that is there is passed over without keeping other writers from the table.
        if mode == ImportMode::Restore && self.find_beginning(batch, after).await? == batch.len() {
            return Ok(Imported { duplicates: batch.len(), last_position: None });
        }
        self.batch("BEGIN").await?;
        let outcome = self.write_new(batch, after, mode).await;
        match &outcome {
            Ok(_) => self.batch("COMMIT").await?,
            // After an outage the session is given up.
            Err(_) => self.batch("ROLLBACK").await.unwrap_or_default(),
        }
        outcome
    }

    /// Says what an import would refuse, as the store is now, and which messages of the batch it would write; writes nothing.
    pub async fn check_import(
        &self,
        batch: &[ExportedMessage],
        after: i64,
        mode: ImportMode,
    ) -> Result<Vec<usize>, ImportError> {
        let judged = self.judge(batch, after, mode).await?;
        Ok(judged.new.iter().map(|(nth, _)| *nth).collect())
    }

    async fn write_new(
        &self,
        batch: &[ExportedMessage],
        after: i64,
        mode: ImportMode,
    ) -> Result<Imported, ImportError> {
        if batch.iter().any(|message| message.erased.is_some()) {
            self.batch(LOCK_ERASURES).await?;
        }
        match mode {
            ImportMode::Restore => self.batch(LOCK_TABLE).await?,
            ImportMode::Append => {
                let streams: Vec<&str> = batch.iter().map(|message| &*message.stream_name).collect();
                self.query_typed(LOCK_CATEGORIES, &[(&streams, Type::TEXT_ARRAY)]).await?;
            }
        }
        // After the locks: what other writers have committed is seen.
        let Judged { duplicates, new } = self.judge(batch, after, mode).await?;
        let (Some((_, first)), Some((_, last))) = (new.first(), new.last()) else {
            return Ok(Imported { duplicates, last_position: None });
        };
        if mode == ImportMode::Append {
            self.copy(&new, mode).await?;
            self.add_erasures(&new).await?;
            let rows = self.query_typed("SELECT lastval()", &[]).await?;
            let last_position = rows.first().map(|row| column(row, 0)).transpose()?;
            return Ok(Imported { duplicates, last_position });
        }
        let (_, given) = self.end().await?;
        if given >= first.global_position {
            self.query_typed(BEGIN_HISTORY, &[]).await?;
        }
        self.copy(&new, mode).await?;
        self.add_erasures(&new).await?;
        self.query_typed(SET_SEQUENCE, &[(&last.global_position.max(given), Type::INT8)]).await?;
        Ok(Imported { duplicates, last_position: Some(last.global_position) })
    }

    async fn judge<'a>(
        &self,
        batch: &'a [ExportedMessage],
        after: i64,
        mode: ImportMode,
    ) -> Result<Judged<'a>, ImportError> {
        let judged = match mode {
            ImportMode::Restore => self.judge_restored(batch, after).await?,
            ImportMode::Append => self.judge_appended(batch).await?,
        };
        self.check_versions(&judged.new).await?;
        Ok(judged)
    }

    async fn judge_restored<'a>(&self, batch: &'a [ExportedMessage], after: i64) -> Result<Judged<'a>, ImportError> {
        let duplicates = self.find_beginning(batch, after).await?;
        let new: Vec<_> = batch.iter().enumerate().skip(duplicates).collect();
        let known = batch[..duplicates].last().map_or(after, |known| known.global_position);
        if !new.is_empty() {
            let (end, _) = self.end().await?;
            if end > known {
                let reason = format!(
                    "the store's log goes on after global position {known} with messages that are not those of the file, \
                     up to {end}. {KEPT_POSITIONS}"
                );
                return Err(ImportError::Refused { nth: duplicates, reason });
            }
        }
        Ok(Judged { duplicates, new })
    }

    async fn judge_appended<'a>(&self, batch: &'a [ExportedMessage]) -> Result<Judged<'a>, ImportError> {
        let ids: Vec<Uuid> = batch.iter().map(|message| message.id).collect();
        let rows = self.query_typed(BY_ID, &[(&ids, Type::UUID_ARRAY)]).await?;
        let mut is_there = vec![false; batch.len()];
        for row in &rows {
            let (nth, found): (i64, (&str, i64, &str)) =
                (column(row, 0)?, (column(row, 1)?, column(row, 2)?, column(row, 3)?));
            let nth = nth as usize - 1;
            let message = &batch[nth];
            if (&*message.stream_name, message.position, &*message.message_type) != found {
                let (stream_name, position, message_type) = found;
                let reason = format!(
                    "the id {} is that of another message in the store: {message_type} at position {position} of \
                     {stream_name}",
                    message.id
                );
                return Err(ImportError::Refused { nth, reason });
            }
            is_there[nth] = true;
        }
        let new: Vec<_> = batch.iter().enumerate().filter(|(nth, _)| !is_there[*nth]).collect();
        Ok(Judged { duplicates: batch.len() - new.len(), new })
    }

    /// The end of the log, and what its sequence has given.
    async fn end(&self) -> Result<(i64, i64), StoreError> {
        let rows = self.query_typed(END, &[]).await?;
        rows.first().map_or(Ok((0, 0)), |row| Ok((column(row, 0)?, column(row, 1)?)))
    }

    /// How many messages the batch begins with that are there already. Others at their places are refused.
    async fn find_beginning(&self, batch: &[ExportedMessage], after: i64) -> Result<usize, ImportError> {
        let last = batch.last().map_or(after, |last| last.global_position);
        let rows = self.query_typed(BETWEEN, &[(&after, Type::INT8), (&last, Type::INT8)]).await?;
        for (nth, row) in rows.iter().enumerate() {
            let (position, id): (i64, Uuid) = (column(row, 0)?, column(row, 1)?);
            if batch.get(nth).is_none_or(|message| (message.global_position, message.id) != (position, id)) {
                let reason = format!(
                    "the store has another message at global position {position}, with the id {id}. {KEPT_POSITIONS}"
                );
                return Err(ImportError::Refused { nth: nth.min(batch.len() - 1), reason });
            }
        }
        Ok(rows.len())
    }

    /// Every stream goes on after what it has.
    async fn check_versions(&self, new: &[(usize, &ExportedMessage)]) -> Result<(), ImportError> {
        let mut ends: HashMap<&str, i64> = HashMap::new();
        let (mut names, mut firsts, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (nth, message) in new {
            match ends.insert(&message.stream_name, message.position) {
                None => {
                    names.push(&*message.stream_name);
                    firsts.push(message.position);
                    places.push(*nth);
                }
                Some(end) if end >= message.position => {
                    return Err(taken(&message.stream_name, message.position, end, *nth));
                }
                Some(_) => {}
            }
        }
        let rows = self.query_typed(COME_TO, &[(&names, Type::TEXT_ARRAY), (&firsts, Type::INT8_ARRAY)]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (at, version): (i64, i64) = (column(row, 0)?, column(row, 1)?);
        let at = at as usize - 1;
        Err(taken(names[at], firsts[at], version, places[at]))
    }

    async fn add_erasures(&self, new: &[(usize, &ExportedMessage)]) -> Result<(), StoreError> {
        let erased: Vec<_> =
            new.iter().filter_map(|(_, message)| Some((message.id, message.erased.as_ref()?))).collect();
        if erased.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = erased.iter().map(|(id, _)| *id).collect();
        let times: Vec<Timestamp> = erased.iter().map(|(_, erasure)| erasure.at).collect();
        let reasons: Vec<Option<&str>> = erased.iter().map(|(_, erasure)| erasure.reason.as_deref()).collect();
        let (uuids, timestamps, texts) = (Type::UUID_ARRAY, Type::TIMESTAMP_ARRAY, Type::TEXT_ARRAY);
        self.query_typed(ADD_ERASURES, &[(&ids, uuids), (&times, timestamps), (&reasons, texts)]).await?;
        Ok(())
    }

    async fn copy(&self, new: &[(usize, &ExportedMessage)], mode: ImportMode) -> Result<(), ImportError> {
        let keeps_positions = mode == ImportMode::Restore;
        let global_position = if keeps_positions { ", global_position" } else { "" };
        let sql = format!(
            "COPY message_store.messages (id, stream_name, type, position, data, metadata, time{global_position}) \
             FROM STDIN (FORMAT binary)"
        );
        match self.copy_in(&sql, encode(new, keeps_positions)).await {
            Ok(()) => Ok(()),
            Err(CopyError::Row { number, reason }) => {
                let nth = new.get(number).map_or(0, |(nth, _)| *nth);
                Err(ImportError::Refused { nth, reason: format!("the database refuses the message: {reason}") })
            }
            Err(CopyError::Store(error)) => Err(error.into()),
        }
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a tokio_postgres::Row, at: usize) -> Result<T, StoreError> {
    Ok(row.try_get(at)?)
}

fn taken(stream_name: &str, position: i64, version: i64, nth: usize) -> ImportError {
    let reason = format!(
        "position {position} of stream {stream_name} is not free: before this message, its version is {version}"
    );
    ImportError::Refused { nth, reason }
}

/// Rows as binary `COPY` has them.
fn encode(messages: &[(usize, &ExportedMessage)], keeps_positions: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(1 << 20);
    out.put_slice(HEADER);
    for (_, message) in messages {
        out.put_i16(if keeps_positions { 8 } else { 7 });
        put(&mut out, message.id.as_bytes());
        put(&mut out, message.stream_name.as_bytes());
        put(&mut out, message.message_type.as_bytes());
        put(&mut out, &message.position.to_be_bytes());
        put_json(&mut out, message.data.as_deref());
        put_json(&mut out, message.metadata.as_deref());
        put(&mut out, &message.time.to_postgres().to_be_bytes());
        if keeps_positions {
            put(&mut out, &message.global_position.to_be_bytes());
        }
    }
    out.put_i16(TRAILER);
    out.freeze()
}

fn put(out: &mut BytesMut, value: &[u8]) {
    out.put_i32(value.len() as i32);
    out.put_slice(value);
}

fn put_json(out: &mut BytesMut, json: Option<&str>) {
    match json {
        None => out.put_i32(-1),
        Some(json) => {
            out.put_i32(json.len() as i32 + 1);
            out.put_u8(JSONB);
            out.put_slice(json.as_bytes());
        }
    }
}
