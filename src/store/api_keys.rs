//! API keys, and the secrets that all instances share.

use tokio_postgres::Row;

use super::{Database, StoreError};
use crate::domain::api_key::ApiKey;
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;

/// API keys: made, listed, revoked, looked up.
#[derive(Clone, Copy)]
pub struct ApiKeys<'a>(&'a Database);

/// A SHA-256.
pub type KeyHash = [u8; 32];

/// Keys that ended this many days ago are deleted when another one is made.
const ENDED_KEPT_DAYS: i32 = 90;

/// A key that can be used.
#[derive(Debug, Clone)]
pub struct LiveKey {
    pub id: String,
    pub hash: KeyHash,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<Timestamp>,
}

/// What signs tickets, and a text that changes whenever a key does.
#[derive(Clone, PartialEq, Eq)]
pub struct KeysState {
    pub checksum: String,
    pub ticket_secret: KeyHash,
}

/// A key that is made.
#[derive(Debug)]
pub struct NewKey<'a> {
    pub id: &'a str,
    pub hash: KeyHash,
    pub name: &'a str,
    pub scopes: &'a [Scope],
    pub created_by: &'a str,
    pub expires_at: Option<Timestamp>,
}

/// Whether a key was made.
#[derive(Debug)]
pub enum Created {
    Yes(ApiKey),
    /// Another key has this id.
    IdTaken,
    /// There are as many keys as there may be.
    TooMany,
}

const COLUMNS: &str = "k.id, k.name, k.scopes, k.created_at AT TIME ZONE 'UTC', k.created_by, \
    k.expires_at AT TIME ZONE 'UTC', k.revoked_at AT TIME ZONE 'UTC', k.last_used_at AT TIME ZONE 'UTC'";

/// Keys that can be used.
const LIVE: &str = "k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())";

impl Database {
    pub fn api_keys(&self) -> ApiKeys<'_> {
        ApiKeys(self)
    }
}

impl ApiKeys<'_> {
    /// Makes a key. With the same id and hash it makes one, however often it is called: an answer may be lost.
    pub async fn create(self, key: &NewKey<'_>, keys_max: i64) -> Result<Created, StoreError> {
        let client = self.0.client().await?;
        let sql = format!(
            "WITH forgotten AS (DELETE FROM headwater.api_keys AS k WHERE \
             least(k.revoked_at, k.expires_at) < clock_timestamp() - make_interval(days => {ENDED_KEPT_DAYS})), \
             made AS (INSERT INTO headwater.api_keys (id, name, hash, scopes, created_by, expires_at) \
             SELECT $1, $2, $3, $4, $5, $6::timestamp AT TIME ZONE 'UTC' \
             WHERE (SELECT count(*) FROM headwater.api_keys AS k WHERE {LIVE}) < $7 \
             ON CONFLICT (id) DO NOTHING RETURNING *), \
             told AS (SELECT pg_notify('headwater', 'keys') FROM made) \
             SELECT {COLUMNS}, k.hash, (SELECT count(*) FROM told) FROM made AS k UNION ALL \
             SELECT {COLUMNS}, k.hash, 0 FROM headwater.api_keys AS k WHERE k.id = $1"
        );
        let scopes: Vec<String> = key.scopes.iter().map(ToString::to_string).collect();
        let hash = key.hash.as_slice();
        let statement = client.prepare_cached(&sql).await?;
        let rows = client
            .query(&statement, &[&key.id, &key.name, &hash, &scopes, &key.created_by, &key.expires_at, &keys_max])
            .await?;
        let Some(row) = rows.first() else { return Ok(Created::TooMany) };
        let found: &[u8] = row.try_get(8)?;
        Ok(if found == hash { Created::Yes(read(row)?) } else { Created::IdTaken })
    }

    /// Revokes a key: for good, and as often as one likes. `None`: there is none with this id.
    pub async fn revoke(self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let client = self.0.client().await?;
        let sql = format!(
            "WITH revoked AS (UPDATE headwater.api_keys AS k SET revoked_at = coalesce(k.revoked_at, clock_timestamp()) \
             WHERE k.id = $1 RETURNING *), told AS (SELECT pg_notify('headwater', 'keys') FROM revoked) \
             SELECT {COLUMNS}, (SELECT count(*) FROM told) FROM revoked AS k"
        );
        let statement = client.prepare_cached(&sql).await?;
        client.query_opt(&statement, &[&id]).await?.as_ref().map(read).transpose()
    }

    /// Keys in the order in which they were made, after one of them; those that ended too.
    pub async fn list(self, after: Option<&str>, limit: i64) -> Result<Vec<ApiKey>, StoreError> {
        let client = self.0.reader().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM headwater.api_keys AS k WHERE $1::text IS NULL OR (k.created_at, k.id) > \
             (SELECT a.created_at, a.id FROM headwater.api_keys AS a WHERE a.id = $1) ORDER BY k.created_at, k.id LIMIT $2"
        );
        let statement = client.prepare_cached(&sql).await?;
        client.query(&statement, &[&after, &limit]).await?.iter().map(read).collect()
    }

    /// What has to be looked at often. The checksum is that of the rows' versions, so that it notices whatever changes them; and
    /// of their ids, as a log that went back gives the numbers of transactions once more.
    pub async fn state(self) -> Result<KeysState, StoreError> {
        let client = self.0.reader().await?;
        let sql = "SELECT (SELECT coalesce(sum(hashtextextended(k.ctid::text || ' ' || k.xmin::text || ' ' || k.id, 0)), 0)::text \
            FROM headwater.api_keys AS k), s.secret FROM headwater.secrets AS s WHERE s.name = 'tickets'";
        let statement = client.prepare_cached(sql).await?;
        let row = client.query_one(&statement, &[]).await?;
        Ok(KeysState { checksum: row.try_get(0)?, ticket_secret: hash_of(&row, 1)? })
    }

    /// All keys that can be used.
    pub async fn live(self) -> Result<Vec<LiveKey>, StoreError> {
        let client = self.0.reader().await?;
        let sql = format!(
            "SELECT k.id, k.hash, k.scopes, k.expires_at AT TIME ZONE 'UTC' FROM headwater.api_keys AS k \
             WHERE {LIVE}"
        );
        let statement = client.prepare_cached(&sql).await?;
        let rows = client.query(&statement, &[]).await?;
        rows.iter()
            .map(|row| {
                let (id, hash, scopes) = (row.try_get(0)?, hash_of(row, 1)?, scopes_of(row, 2)?);
                Ok(LiveKey { id, hash, scopes, expires_at: row.try_get(3)? })
            })
            .collect()
    }

    /// Notes when keys were used.
    pub async fn used(self, uses: &[(String, Timestamp)]) -> Result<(), StoreError> {
        let client = self.0.client().await?;
        let sql = "UPDATE headwater.api_keys AS k SET last_used_at = greatest(k.last_used_at, u.at AT TIME ZONE 'UTC') \
            FROM unnest($1::text[], $2::timestamp[]) AS u (id, at) WHERE k.id = u.id";
        let statement = client.prepare_cached(sql).await?;
        let (ids, times): (Vec<_>, Vec<_>) = uses.iter().map(|(id, at)| (id.as_str(), *at)).unzip();
        client.execute(&statement, &[&ids, &times]).await?;
        Ok(())
    }
}

fn read(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        scopes: scopes_of(row, 2)?,
        created_at: row.try_get(3)?,
        created_by: row.try_get(4)?,
        expires_at: row.try_get(5)?,
        revoked_at: row.try_get(6)?,
        last_used_at: row.try_get(7)?,
    })
}

/// A scope that this version does not know allows nothing.
fn scopes_of(row: &Row, at: usize) -> Result<Vec<Scope>, StoreError> {
    let scopes: Vec<String> = row.try_get(at)?;
    Ok(scopes.iter().filter_map(|scope| scope.parse().ok()).collect())
}

fn hash_of(row: &Row, at: usize) -> Result<KeyHash, StoreError> {
    let bytes: &[u8] = row.try_get(at)?;
    bytes.try_into().map_err(|_| StoreError::Bug(format!("a hash has {} bytes", bytes.len())))
}
