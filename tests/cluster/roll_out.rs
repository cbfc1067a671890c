//! Versions side by side during a roll-out: an instance beside a newer one goes on, or refuses to work and says why.

use headwater::app::{AppError, Running};
use headwater::config::Settings;
use headwater::lifecycle::Lifecycle;
use headwater::store::migrate::{
    FUNCTIONS_SERVE_FROM, FUNCTIONS_VERSION, MigrateError, MigrateOptions, Schema, run_schema,
};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

/// The next release: a migration more, a newer text of a function, a function more.
fn next_release(serves_from: i32) -> Schema {
    let mut schema = Schema::embedded();
    let mut more = schema.migrations[0].clone();
    more.version = schema.migrations.last().unwrap().version + 1;
    more.sql = "CREATE TABLE headwater.more (n integer); \
                ALTER TABLE headwater.subscriptions ADD COLUMN more text; \
                ALTER TABLE headwater.aggregated_streams ADD COLUMN more integer NOT NULL DEFAULT 0"
        .into();
    schema.migrations.push(more);
    for function in schema.functions.iter_mut().filter(|function| function.path.ends_with("/message_store_version")) {
        function.sql = function.sql.replace("1.3.0", "newer").into();
    }
    schema.functions_version = FUNCTIONS_VERSION + 1;
    schema.functions_serve_from = serves_from;
    schema
}

async fn migrate(database: &TestDatabase, schema: &Schema) {
    run_schema(&database.url, &MigrateOptions::default(), schema).await.unwrap();
}

async fn functions_text(database: &TestDatabase) -> String {
    let row = database.connect().await.query_one("SELECT message_store.message_store_version()", &[]).await.unwrap();
    row.get(0)
}

/// Appends, follows, aggregates and consumes.
async fn works(app: &TestApp, name: &str) {
    let mut events = app.follow("/v1/categories/a/events").await;
    let at = app.write("a-1", "Written", json!({})).await;
    assert_eq!(events.next("message").await.json()["global_position"], at);
    assert_eq!(app.get("/readyz").await.status, 200);
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" }, "max_partition": 0 });
    let defined = app.put(&format!("/v1/aggregated-streams/{name}"), &definition).await;
    assert_eq!(defined.status, 201, "{}", defined.text);
    let path = format!("/v1/aggregated-streams/{name}/partitions/0/messages?wait=20s");
    assert!(!app.get(&path).await.json()["messages"].as_array().unwrap().is_empty());
    let definition = json!({ "source": { "category": "a" }, "mode": "competing", "from": "beginning" });
    assert_eq!(app.put(&format!("/v1/subscriptions/{name}"), &definition).await.status, 201);
    let fetch = json!({ "consumer": "c", "limit": 100, "wait": "20s" });
    let fetched = app.post(&format!("/v1/subscriptions/{name}/fetch"), &fetch).await;
    assert!(!fetched.json()["messages"].as_array().unwrap().is_empty(), "{}", fetched.text);
}

#[tokio::test]
async fn an_instance_works_on_beside_a_newer_one_and_restarts_beside_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    works(&app, "before").await;
    // The first instance of the next release starts.
    migrate(&database, &next_release(FUNCTIONS_SERVE_FROM)).await;
    works(&app, "beside").await;
    app.stop().await;
    // One of this release restarts: it puts nothing back.
    let app = TestApp::on(&database).await;
    works(&app, "again").await;
    assert_eq!(functions_text(&database).await, "newer");
    app.stop().await;
}

#[tokio::test]
async fn an_instance_that_the_newer_functions_do_not_serve_refuses_and_says_so() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.until_ready().await;
    migrate(&database, &next_release(FUNCTIONS_VERSION + 1)).await;
    // One that runs is taken out by its balancer.
    let refused = eventually("the instance finds out", || async {
        let answer = app.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    let problem = refused.problem(503, "database-unavailable");
    assert_eq!(problem["checks"]["migrations"], false, "{problem}");
    app.stop().await;
    // One that starts does not.
    let mut settings = Settings::defaults();
    settings.listen = "127.0.0.1:0".parse().unwrap();
    let started = Running::start(&settings, &database.url, Lifecycle::new()).await;
    let Err(AppError::Migrate(error)) = started else { panic!("it has started") };
    assert!(matches!(error, MigrateError::TooOld { .. }), "{error}");
    assert!(error.to_string().contains("start a newer one"), "{error}");
    assert_eq!(functions_text(&database).await, "newer");
}
