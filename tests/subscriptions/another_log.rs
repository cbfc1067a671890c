//! A delivery is of the log that is there: one that was read from another log, by an instance that has not noticed it yet,
//! moves nothing.

use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

/// What an instance brings with a delivery of the first messages of the log.
#[derive(Clone, Copy)]
struct Read {
    history: i64,
    rewind_generation: i64,
    /// Of the last message, whose position is the number of messages.
    last: i64,
    last_id: Uuid,
}

struct World {
    database: TestDatabase,
    sql: Client,
    id: i64,
}

impl World {
    /// Three messages, and a subscription whose partition belongs to `c`.
    async fn new(mode: &str) -> (Self, Read) {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        let definition = json!({ "source": { "category": "account" }, "mode": mode, "from": "beginning" });
        let created = app.put("/v1/subscriptions/s", &definition).await;
        assert_eq!(created.status, 201, "{}", created.text);
        for number in 0..3 {
            app.write("account-1", "Noted", json!({ "n": number })).await;
        }
        // From here on nobody else moves anything.
        app.stop().await;
        let sql = database.connect().await;
        let id = sql.query_one("SELECT id FROM headwater.subscriptions", &[]).await.unwrap().get(0);
        let row = sql
            .query_one(
                "UPDATE headwater.subscription_partitions AS p SET consumer = 'c' FROM headwater.settled_position AS k \
                 WHERE p.partition = 0 RETURNING k.history, p.rewind_generation",
                &[],
            )
            .await
            .unwrap();
        let last_id = "SELECT id FROM message_store.messages WHERE global_position = 3";
        let last_id = sql.query_one(last_id, &[]).await.unwrap().get(0);
        let read = Read { history: row.get(0), rewind_generation: row.get(1), last: 3, last_id };
        (Self { database, sql, id }, read)
    }

    /// Whether it was taken; nothing has moved if not.
    async fn claim(&self, read: Read) -> bool {
        let positions: Vec<i64> = (1..=read.last).collect();
        let claim = "SELECT headwater.subscription_claim($1, 'c', $2, 0, $3, 0, $4, $5, $5, false, 1, $6)";
        let Read { history, rewind_generation, last, last_id } = read;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&self.id, &history, &rewind_generation, &last, &positions, &last_id];
        let outcome: String = self.sql.query_one(claim, &parameters).await.unwrap().get(0);
        self.moved(outcome == "done", last).await
    }

    async fn deliver(&self, read: Read) -> bool {
        let positions: Vec<i64> = (1..=read.last).collect();
        let deliver = "SELECT partition FROM headwater.subscription_deliver($1, 'c', $2, ARRAY[0], \
            ARRAY[(SELECT epoch FROM headwater.subscription_partitions WHERE partition = 0)], ARRAY[$3::bigint], ARRAY[0::bigint], \
            ARRAY[$4::bigint], ARRAY[cardinality($5::bigint[])], $5, ARRAY[$4::bigint], ARRAY[$6::uuid], false)";
        let Read { history, rewind_generation, last, last_id } = read;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&self.id, &history, &rewind_generation, &last, &positions, &last_id];
        let rows = self.sql.query(deliver, &parameters).await.unwrap();
        self.moved(!rows.is_empty(), last).await
    }

    async fn moved(&self, is_taken: bool, last: i64) -> bool {
        let cursor = "SELECT read_up_to, delivered FROM headwater.subscription_partitions WHERE partition = 0";
        let row = self.sql.query_one(cursor, &[]).await.unwrap();
        let expected = if is_taken { (last, last) } else { (0, 0) };
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), expected);
        is_taken
    }

    async fn try_all(self, read: Read, take: impl AsyncFn(&Self, Read) -> bool) {
        assert!(!take(&self, Read { last_id: Uuid::now_v7(), ..read }).await, "another message has that position");
        assert!(!take(&self, Read { history: read.history + 1, ..read }).await, "another history");
        assert!(!take(&self, Read { rewind_generation: read.rewind_generation + 1, ..read }).await, "it was set back");
        let next = Read { last: 4, last_id: Uuid::now_v7(), ..read };
        assert!(!take(&self, next).await, "the log ends before it");

        let mut writer = self.database.connect().await;
        let writing = writer.transaction().await.unwrap();
        let write = "SELECT message_store.write_message(gen_random_uuid()::varchar, 'other-1', 'Noted', '{}')";
        writing.execute(write, &[]).await.unwrap();
        assert!(!take(&self, next).await, "a message is under way at its position");
        writing.rollback().await.unwrap();
        assert!(!take(&self, next).await, "nobody knows yet that there is none");

        // What is gone from the settled part was trimmed or deleted, and is no reason to stop.
        self.sql.execute("DELETE FROM message_store.messages WHERE global_position = 3", &[]).await.unwrap();
        self.sql.execute("UPDATE headwater.settled_position SET position = 3", &[]).await.unwrap();
        assert!(take(&self, read).await);
    }
}

#[tokio::test]
async fn a_claim_of_another_log_is_refused() {
    let (world, read) = World::new("competing").await;
    world.try_all(read, World::claim).await;
}

#[tokio::test]
async fn a_delivery_of_another_log_is_refused() {
    let (world, read) = World::new("partitioned").await;
    world.try_all(read, World::deliver).await;
}

#[tokio::test]
async fn what_is_there_is_taken() {
    let (world, read) = World::new("competing").await;
    assert!(world.claim(read).await);
    let (world, read) = World::new("partitioned").await;
    assert!(world.deliver(read).await);
}
