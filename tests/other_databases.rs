//! Other people's databases: what an administrator has set for a database does not change what the service does.

use futures_util::future::join_all;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::until_true;

/// Sets defaults for every session of this database that begins from now on.
async fn set_defaults(client: &Client, defaults: &[(&str, &str)]) {
    let name: String = client.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    for (setting, value) in defaults {
        client.batch_execute(&format!("ALTER DATABASE {name} SET {setting} = '{value}'")).await.unwrap();
    }
}

/// Waits until a question about the database is answered with yes.

#[tokio::test]
async fn isolation_that_a_database_sets_by_default_fails_no_request() {
    for isolation in ["repeatable read", "serializable"] {
        let database = TestDatabase::migrated().await;
        set_defaults(&database.connect().await, &[("default_transaction_isolation", isolation)]).await;
        let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
        let subscription = json!({ "source": { "category": "a" }, "mode": "competing", "ack_timeout": "60s" });
        let created = apps[0].put("/v1/subscriptions/s", &subscription).await;
        assert_eq!(created.status, 201, "{}", created.text);
        let body = json!({ "messages": [{ "type": "T", "data": {} }] });
        let writers = (0..40).map(|n| {
            let (app, body) = (&apps[n % 2], &body);
            async move {
                for round in 0..10 {
                    let answer = app.append("a-1", body).await;
                    assert_eq!(answer.status, 201, "{isolation}, {n}, {round}: {}", answer.text);
                }
            }
        });
        let consumers = (0..8).map(|n| {
            let app = &apps[n % 2];
            async move {
                for round in 0..20 {
                    let wish = json!({ "consumer": format!("w{n}"), "limit": 3 });
                    let given = app.post("/v1/subscriptions/s/fetch", &wish).await;
                    assert_eq!(given.status, 200, "{isolation}, {n}, {round}: {}", given.text);
                }
            }
        });
        tokio::join!(join_all(writers), join_all(consumers));
        let page = apps[0].get("/v1/streams/a-1/messages?limit=1000").await.json();
        assert_eq!(page["version"], 399);
    }
}

#[tokio::test]
async fn time_limits_that_a_database_sets_by_default_end_no_work_of_the_service() {
    let database = TestDatabase::migrated().await;
    let (client, observer) = (database.connect().await, database.connect().await);
    let limits = [("statement_timeout", "1500ms"), ("lock_timeout", "1s"), ("idle_session_timeout", "700ms")];
    set_defaults(&client, &limits).await;
    let app = TestApp::on(&database).await;
    let body = json!({ "messages": [{ "type": "T", "data": {} }] });
    assert_eq!(app.append("a-1", &body).await.status, 201);

    client.batch_execute("BEGIN; SELECT message_store.acquire_lock('a-1')").await.unwrap();
    let others = async {
        until_true(
            &observer,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'headwater' AND wait_event_type = 'Lock' AND now() - query_start > '2500 ms')",
        )
        .await;
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(app.append("a-1", &body), others);
    assert_eq!(answer.status, 201, "{}", answer.text);

    // The pool's, and those of agents that have nothing to do.
    until_true(
        &observer,
        "SELECT count(*) >= 2 FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'headwater' AND state = 'idle' AND now() - state_change > '800 ms'",
    )
    .await;
    assert_eq!(app.metric("headwater_database_lost_total").await, 0.0);
}
