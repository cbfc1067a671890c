//! `headwater.append_batch`: many requests in one call and one transaction.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::outcome::Outcome;
use super::{Connection, Database, Session, StoreError};
use crate::domain::append::{AppendError, AppendRequest, Appended, LockHolder, WrittenMessage};
use crate::domain::message::{Message, MessageParts};
use crate::domain::time::Timestamp;

const APPEND_BATCH: &str = "SELECT * FROM headwater.append_batch(\
    $1::text[], $2::bigint[], $3::boolean[], $4::int[], $5::int[], $6::int[], $7::text[], $8::uuid[], $9::text[], \
    $10::text[], $11::text[], $12::timestamp[], $13::boolean[], $14::uuid[], $15::boolean)";

const FIND_DUPLICATE_IDS: &str = "SELECT * FROM headwater.find_duplicate_ids(\
    $1::int, $2::int[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[])";

/// A session of its own for appends, with what is needed to find out what became of its last commits.
pub struct BatchSession {
    session: Session,
    append_batch: Statement,
    backend: Backend,
}

/// One server process, told apart from a later one with the same pid.
#[derive(Debug, Clone)]
pub struct Backend {
    pid: i32,
    /// `None` where the session may not see its own start: it has taken a role that is no member of the role that
    /// logged in. We cannot end such a session, and what it did is not known before it is gone.
    started_at_micros: Option<i64>,
}

#[cfg(test)]
impl Backend {
    pub fn of(pid: i32) -> Self {
        Self { pid, started_at_micros: None }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// What became of one request of a batch.
#[derive(Debug)]
pub enum Answer {
    Done(Result<Appended, AppendError>),
    /// Another transaction holds the lock of its category; nothing was done.
    Locked,
}

/// A batch that went through.
#[derive(Debug)]
pub struct BatchAnswer {
    /// One for each request, in order.
    pub answers: Vec<Answer>,
    pub written: Written,
}

/// The messages that a batch has written.
#[derive(Debug, Default)]
pub struct Written {
    /// Of all of them, in order: the global position and the id.
    pub positions: Vec<(i64, Uuid)>,
    /// Those that were wanted, in order.
    pub messages: Vec<Arc<Message>>,
}

/// A batch that did not go through, and what that means for it.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It was rolled back because of what another transaction did (a message id was taken meanwhile, a deadlock):
    /// the same batch may be sent again.
    #[error("rolled back: {0}")]
    SendAgain(String),
    /// It was rolled back because of something in it.
    #[error("{0}")]
    Refused(String),
    /// It was not begun, or was rolled back because the server cannot write, or does not let us.
    #[error("nothing was written: {0}")]
    NotWritten(StoreError),
    /// Waiting for a category's lock took too long; it was rolled back.
    #[error("a category's lock is held by another transaction")]
    LockTimeout,
    /// The connection was lost before the answer came.
    #[error("the connection was lost: {0}")]
    InDoubt(String),
}

impl BatchSession {
    /// Connects. The task that waits for the session has to poll the connection.
    pub async fn open(database: &Database, lock_timeout: Duration) -> Result<(Self, Pin<Box<Connection>>), StoreError> {
        let (session, (backend, append_batch), connection) =
            Session::open_undriven(database, async |session| set_up(session, lock_timeout).await).await?;
        Ok((Self { session, append_batch, backend }, connection))
    }

    /// Whether the connection has ended, as far as it has been polled.
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    pub fn backend(&self) -> Backend {
        self.backend.clone()
    }

    /// Writes the requests in one transaction. `wanted` says for each message whether it is to come back as it stands.
    pub async fn append_batch(
        &self,
        requests: &[&AppendRequest],
        wanted: Option<&[bool]>,
        wait_for_locks: bool,
    ) -> Result<BatchAnswer, BatchError> {
        let columns = Columns::of(requests);
        let parameters: [&(dyn ToSql + Sync); 15] = [
            &columns.request_streams,
            &columns.expected_versions,
            &columns.must_exist,
            &columns.message_counts,
            &columns.message_requests,
            &columns.message_offsets,
            &columns.message_streams,
            &columns.ids,
            &columns.types,
            &columns.datas,
            &columns.metadatas,
            &columns.times,
            &wanted,
            &columns.ids_to_check,
            &wait_for_locks,
        ];
        let writing = self.session.client.query_one(&self.append_batch, &parameters);
        let row = writing.await.map_err(|error| judge(&error))?;
        read_answer(&row, requests, wanted).map_err(|error| BatchError::InDoubt(super::source_text(&error)))
    }
}

async fn set_up(session: &Session, lock_timeout: Duration) -> Result<(Backend, Statement), StoreError> {
    // One plan for batches of all sizes: made anew for each, plans would be a quarter of what a batch of 32 costs.
    let settings = format!("SET lock_timeout = {}; SET plan_cache_mode = force_generic_plan", lock_timeout.as_millis());
    session.batch(&settings).await?;
    let row = session
        .query_one(
            "SELECT pg_backend_pid(), (extract(epoch FROM backend_start) * 1000000)::bigint \
             FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            &[],
        )
        .await?;
    let backend = Backend { pid: row.try_get(0)?, started_at_micros: row.try_get(1)? };
    Ok((backend, session.prepare_cached(APPEND_BATCH).await?))
}

/// The requests as the columns that the function takes.
#[derive(Default)]
struct Columns<'a> {
    request_streams: Vec<&'a str>,
    expected_versions: Vec<Option<i64>>,
    must_exist: Vec<bool>,
    message_counts: Vec<i32>,
    message_requests: Vec<i32>,
    message_offsets: Vec<i32>,
    message_streams: Vec<&'a str>,
    ids: Vec<Uuid>,
    types: Vec<&'a str>,
    datas: Vec<&'a str>,
    metadatas: Vec<Option<&'a str>>,
    times: Vec<Option<Timestamp>>,
    ids_to_check: Vec<Uuid>,
}

impl<'a> Columns<'a> {
    fn of(requests: &[&'a AppendRequest]) -> Self {
        let mut columns = Self::default();
        for (number, request) in (1..).zip(requests) {
            columns.request_streams.push(request.stream_name.as_str());
            columns.expected_versions.push(request.expected_version);
            columns.must_exist.push(request.must_exist);
            columns.message_counts.push(request.messages.len() as i32);
            for (offset, message) in (0..).zip(&request.messages) {
                columns.message_requests.push(number);
                columns.message_offsets.push(offset);
                columns.message_streams.push(request.stream_name.as_str());
                columns.ids.push(message.id);
                columns.types.push(&message.message_type);
                columns.datas.push(&message.data);
                columns.metadatas.push(message.metadata.as_deref());
                columns.times.push(message.time);
                if message.is_client_supplied_id {
                    columns.ids_to_check.push(message.id);
                }
            }
        }
        columns
    }
}

/// The messages of a request that were written before, or a message whose id it uses.
struct Standing {
    stream_name: String,
    placed: WrittenMessage,
}

impl Standing {
    fn in_the_way(self) -> AppendError {
        AppendError::MessageIdReused {
            message_id: self.placed.id,
            stream_name: self.stream_name,
            position: self.placed.position,
        }
    }
}

/// The answer for a request whose messages were all written before.
fn standing_answer(standing: Vec<Standing>, duplicate: bool) -> Appended {
    let messages: Vec<WrittenMessage> = standing.into_iter().map(|message| message.placed).collect();
    Appended { version: messages.last().map_or(-1, |last| last.position), duplicate, messages }
}

/// Data and metadata of messages, as PostgreSQL prints them.
type Texts<'a> = Vec<Option<&'a str>>;

fn read_answer(row: &Row, requests: &[&AppendRequest], wanted: Option<&[bool]>) -> Result<BatchAnswer, StoreError> {
    let outcomes: Vec<&str> = row.try_get("outcomes")?;
    let versions: Vec<i64> = row.try_get("versions")?;
    let global_positions: Vec<i64> = row.try_get::<_, Option<_>>("global_positions")?.unwrap_or_default();
    let written_at: Timestamp = row.try_get("written_at")?;
    let datas: Texts = row.try_get::<_, Option<_>>("data_texts")?.unwrap_or_default();
    let metadatas: Texts = row.try_get::<_, Option<_>>("metadata_texts")?.unwrap_or_default();
    let mut standing = read_standing(row, requests.len())?;
    let mut written = Written { positions: Vec::with_capacity(global_positions.len()), messages: Vec::new() };
    let mut answers = Vec::with_capacity(requests.len());
    let mut first = 0; // the request's first place among all messages
    for (at, request) in requests.iter().enumerate() {
        let version = versions[at];
        let places = first..first + request.messages.len();
        first = places.end;
        let refused = || {
            Answer::Done(Err(AppendError::WrongExpectedVersion {
                stream_name: request.stream_name.as_str().into(),
                expected_version: request.expected_version,
                current_version: version,
            }))
        };
        answers.push(match Outcome::parse(outcomes[at])? {
            Outcome::Done => {
                let mut messages = Vec::with_capacity(request.messages.len());
                let positions = version + 1 - request.messages.len() as i64..;
                for ((message, position), place) in request.messages.iter().zip(positions).zip(places) {
                    let nth = written.positions.len();
                    let Some(&global_position) = global_positions.get(nth) else { break };
                    let time = message.time.unwrap_or(written_at);
                    messages.push(WrittenMessage { id: message.id, position, global_position, time });
                    written.positions.push((global_position, message.id));
                    if wanted.is_some_and(|wanted| wanted[place]) {
                        written.messages.push(Arc::new(Message::new(MessageParts {
                            id: message.id,
                            stream_name: request.stream_name.as_str(),
                            message_type: &message.message_type,
                            position,
                            global_position,
                            data: datas.get(nth).copied().flatten(),
                            metadata: metadatas.get(nth).copied().flatten(),
                            time,
                            erased: None,
                        })));
                    }
                }
                Answer::Done(Ok(Appended { version, duplicate: false, messages }))
            }
            Outcome::Duplicate => Answer::Done(Ok(standing_answer(std::mem::take(&mut standing[at]), true))),
            Outcome::IdReused => {
                standing[at].pop().map_or_else(refused, |message| Answer::Done(Err(message.in_the_way())))
            }
            Outcome::Locked => Answer::Locked,
            Outcome::WrongVersion => refused(),
            other => return Err(other.unexpected()),
        });
    }
    Ok(BatchAnswer { answers, written })
}

fn read_standing(row: &Row, requests: usize) -> Result<Vec<Vec<Standing>>, tokio_postgres::Error> {
    let mut standing: Vec<Vec<Standing>> = (0..requests).map(|_| Vec::new()).collect();
    let Some(numbers) = row.try_get::<_, Option<Vec<i32>>>("standing_requests")? else { return Ok(standing) };
    let ids: Vec<Uuid> = row.try_get("standing_ids")?;
    let streams: Vec<String> = row.try_get("standing_streams")?;
    let positions: Vec<i64> = row.try_get("standing_positions")?;
    let global_positions: Vec<i64> = row.try_get("standing_global_positions")?;
    let times: Vec<Timestamp> = row.try_get("standing_times")?;
    for (at, stream_name) in streams.into_iter().enumerate() {
        standing[numbers[at] as usize - 1].push(Standing {
            stream_name,
            placed: WrittenMessage {
                id: ids[at],
                position: positions[at],
                global_position: global_positions[at],
                time: times[at],
            },
        });
    }
    Ok(standing)
}

fn judge(error: &tokio_postgres::Error) -> BatchError {
    let Some(db) = error.as_db_error() else { return BatchError::InDoubt(super::source_text(error)) };
    let text = db.message().to_owned();
    match db.code().code() {
        // Another transaction took a message id, or stood in the way.
        "23505" | "40001" | "40P01" => BatchError::SendAgain(text),
        "55P03" => BatchError::LockTimeout,
        // A session that is ended may be ended between its commit and its answer.
        code if code.starts_with("57P0") => BatchError::InDoubt(text),
        // The messages themselves are the matter: a data exception, a violated constraint, a limit exceeded.
        code if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => BatchError::Refused(text),
        // No room, no primary, no right, no function: rolled back, and nothing that the caller could change.
        code => BatchError::NotWritten(StoreError::answered(code, &text)),
    }
}

impl Database {
    /// Finds out what became of a commit whose answer was lost. First the old session is ended for good, so that
    /// nothing can be written by it afterwards; then the ids are looked up, with what they stand for: an id may have
    /// stood for something else before. One answer for each request; `None` if its messages do not stand.
    pub async fn resolve_commit(
        &self,
        backend: &Backend,
        requests: &[&AppendRequest],
    ) -> Result<Vec<Option<Result<Appended, AppendError>>>, StoreError> {
        let client = self.client().await?;
        loop {
            let alive = client
                .query_opt(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE pid = $1 \
                     AND coalesce((extract(epoch FROM backend_start) * 1000000)::bigint, $2) IS NOT DISTINCT FROM $2",
                    &[&backend.pid, &backend.started_at_micros],
                )
                .await?;
            if alive.is_none() {
                break;
            }
            tokio::time::sleep(TERMINATE_POLL).await;
        }
        let columns = Columns::of(requests);
        let row = client
            .query_one(
                FIND_DUPLICATE_IDS,
                &[
                    &(requests.len() as i32),
                    &columns.message_requests,
                    &columns.message_streams,
                    &columns.ids,
                    &columns.types,
                    &columns.datas,
                    &columns.metadatas,
                ],
            )
            .await?;
        let outcomes: Vec<&str> = row.try_get("outcomes")?;
        let standing = read_standing(&row, requests.len())?;
        let found = standing.into_iter().zip(outcomes).map(|(standing, outcome)| match Outcome::parse(outcome)? {
            Outcome::Missing => Ok(None),
            Outcome::Duplicate => Ok(Some(Ok(standing_answer(standing, false)))),
            Outcome::IdReused => Ok(standing.into_iter().next().map(|message| Err(message.in_the_way()))),
            other => Err(other.unexpected()),
        });
        found.collect()
    }
}

impl Database {
    /// The transactions that keep appends to a category waiting right now: those that hold its lock, or a lock on the
    /// table that nobody can write beside. A prepared transaction has no process, and is known by the lock on its own number. `waited` is the
    /// session that has given up: it says so before it lets go of what it had got already.
    pub async fn lock_holders(&self, category: &str, waited: Option<&Backend>) -> Result<Vec<LockHolder>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT l.pid, p.gid AS "gid?"
               FROM (SELECT message_store.hash_64($1) AS key) AS category, pg_locks AS l
               LEFT JOIN pg_locks AS own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
               AND own.granted AND own.virtualtransaction = l.virtualtransaction
               LEFT JOIN pg_prepared_xacts AS p ON p.transaction = own.transactionid
               WHERE l.granted AND l.pid IS DISTINCT FROM $2
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND ((l.locktype = 'advisory' AND l.objsubid = 1 AND l.classid::bigint = (category.key >> 32) & 4294967295
               AND l.objid::bigint = category.key & 4294967295)
               OR (l.locktype = 'relation' AND l.relation = 'message_store.messages'::regclass
               AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')))
               ORDER BY 1, 2"#,
            category,
            waited.map(|backend| backend.pid)
        )
        .fetch_all(self)
        .await?;
        let holder = |(pid, gid): (Option<i32>, Option<String>)| {
            pid.map(LockHolder::Process).or_else(|| gid.map(LockHolder::Prepared))
        };
        Ok(rows.into_iter().filter_map(|row| holder((row.pid, row.gid))).collect())
    }
}

/// Between two looks at whether an old session is gone.
const TERMINATE_POLL: Duration = Duration::from_millis(20);

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Timestamp::from_postgres(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMP
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.to_postgres().to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMP
    }

    to_sql_checked!();
}
