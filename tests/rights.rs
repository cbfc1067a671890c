//! A role that may not do what the service does is told at start which right is missing, and the GRANT that gives it.

use headwater::app::{AppError, Running};
use headwater::config::Settings;
use headwater::lifecycle::Lifecycle;
use headwater::store::migrate::{MigrateError, MigrateOptions, run};
use serde_json::json;

use crate::conformance::{Session, unique};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

const STOCK: &str = include_str!("fixtures/stock_message_db.sql");

/// A database, its administrator's session, and a role without rights.
struct Lesser {
    database: TestDatabase,
    administrator: Session,
    role: String,
}

impl Lesser {
    async fn on(database: TestDatabase) -> Self {
        let administrator = Session::open_plain(&database.url).await;
        let role = unique("lesser");
        administrator.run(&format!("CREATE ROLE {role}")).await;
        Self { database, administrator, role }
    }

    async fn run(&self, sql: &str) {
        self.administrator.run(&sql.replace(":role", &self.role)).await;
    }

    /// As a setting of the connection: the server may not let the role log in.
    fn url(&self) -> String {
        let separator = if self.database.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}options=-c%20role%3D{}", self.database.url, self.role)
    }

    /// Why the service does not start as this role.
    async fn refusal(&self) -> MigrateError {
        let mut settings = Settings::defaults();
        settings.listen = "127.0.0.1:0".parse().unwrap();
        match Running::start(&settings, &self.url(), Lifecycle::new()).await {
            Err(AppError::Migrate(error)) => error,
            Err(other) => panic!("refused for another reason: {other}"),
            Ok(_) => panic!("it starts without its rights"),
        }
    }

    /// The statements that it asks for, all at once.
    async fn grants(&self) -> Vec<String> {
        match self.refusal().await {
            MigrateError::MissingRights { role, grants } => {
                assert_eq!(role, self.role);
                grants.into_iter().map(|grant| grant.replace(&self.role, ":role")).collect()
            }
            other => panic!("refused for another reason: {other}"),
        }
    }

    async fn give(&self, grants: &[String]) {
        for grant in grants {
            self.run(grant).await;
        }
    }

    /// With the rights that it asked for, it does all that a service does.
    async fn assert_works(&self) {
        let app = TestApp::with(&self.url(), |_| {}).await;
        let mut events = app.follow("/v1/all/events").await;
        events.next("caught-up").await;
        let position = app.write("account-1", "T", json!({ "n": 1 })).await;
        assert_eq!(events.next("message").await.json()["global_position"], position);
        let source =
            json!({ "stream_wildcards": ["account-%"], "partitioner": { "kind": "cardinal_id", "partitions": 2 } });
        let made = app.put("/v1/aggregated-streams/all-accounts", &source).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let made = app.put("/v1/subscriptions/s", &json!({ "source": { "category": "account" } })).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let given = app.post("/v1/subscriptions/s/fetch", &json!({ "consumer": "w1", "wait": "10s" })).await;
        assert_eq!(given.json()["messages"].as_array().map(Vec::len), Some(1), "{}", given.text);
        assert_eq!(app.get("/v1/reports/categories").await.status, 200);
        assert_eq!(app.get("/readyz").await.status, 200);
        app.stop().await;
    }

    /// Roles belong to the server, not to the database that goes with the test.
    async fn end(self) {
        self.run("DROP OWNED BY :role; DROP ROLE :role").await;
    }
}

const HEADWATER: [&str; 3] = [
    "GRANT USAGE ON SCHEMA headwater TO :role",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA headwater TO :role",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA headwater TO :role",
];

#[tokio::test]
async fn role_with_the_grants_of_message_store_alone_is_told_what_else_the_service_needs() {
    let lesser = Lesser::on(TestDatabase::migrated().await).await;
    lesser
        .run(
            "GRANT USAGE ON SCHEMA message_store TO :role;
             GRANT SELECT, INSERT ON message_store.messages TO :role;
             GRANT USAGE, SELECT ON SEQUENCE message_store.messages_global_position_seq TO :role",
        )
        .await;
    let text = lesser.refusal().await.to_string();
    assert!(text.contains(&format!("role {} lacks rights", lesser.role)), "{text}");
    let grants = lesser.grants().await;
    assert_eq!(grants, HEADWATER);
    lesser.give(&grants).await;
    lesser.assert_works().await;
    lesser.end().await;
}

#[tokio::test]
async fn role_without_rights_on_messages_is_told_at_start_and_is_not_ready_when_it_loses_them() {
    let lesser = Lesser::on(TestDatabase::migrated().await).await;
    lesser.give(&HEADWATER.map(str::to_owned)).await;
    lesser.run("GRANT USAGE ON SCHEMA message_store TO :role").await;
    let grants = lesser.grants().await;
    assert_eq!(
        grants,
        [
            "GRANT SELECT, INSERT ON message_store.messages TO :role",
            "GRANT USAGE ON SEQUENCE message_store.messages_global_position_seq TO :role",
        ]
    );
    lesser.give(&grants).await;
    lesser.run("REVOKE INSERT ON message_store.messages FROM :role").await;
    assert_eq!(lesser.grants().await, ["GRANT INSERT ON message_store.messages TO :role"]);
    lesser.give(&grants).await;

    let app = TestApp::with(&lesser.url(), |_| {}).await;
    app.until_ready().await;
    lesser.run("REVOKE SELECT ON message_store.messages FROM :role").await;
    let problem = app.get("/readyz").await.problem(503, "database-unavailable");
    assert_eq!(problem["checks"]["migrations"], false, "{problem}");
    lesser.give(&grants).await;
    // The reader of the log may have met the missing right, too: then it comes again a moment later.
    app.until_ready().await;
    app.stop().await;
    lesser.end().await;
}

#[tokio::test]
async fn message_db_that_an_administrator_attached_serves_a_lesser_role_with_the_grants_that_it_asks_for() {
    let lesser = Lesser::on(TestDatabase::empty().await).await;
    lesser.run(STOCK).await;
    lesser.run("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store FROM PUBLIC").await;
    run(&lesser.database.url, &MigrateOptions::default()).await.unwrap();
    let grants = lesser.grants().await;
    assert_eq!(
        grants,
        [
            HEADWATER[0],
            "GRANT USAGE ON SCHEMA message_store TO :role",
            "GRANT SELECT, INSERT ON message_store.messages TO :role",
            "GRANT USAGE ON SEQUENCE message_store.messages_global_position_seq TO :role",
            HEADWATER[1],
            HEADWATER[2],
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO :role",
        ]
    );
    lesser.give(&grants).await;
    lesser.assert_works().await;
    lesser.end().await;
}

/// Without it nobody knows which positions may still be filled.
#[tokio::test]
async fn role_that_may_not_see_who_holds_locks_is_told_the_grant() {
    let lesser = Lesser::on(TestDatabase::empty().await).await;
    lesser.run("REVOKE SELECT ON pg_catalog.pg_locks FROM PUBLIC").await;
    run(&lesser.database.url, &MigrateOptions::default()).await.unwrap();
    let grants = lesser.grants().await;
    assert_eq!(grants.last().map(String::as_str), Some("GRANT SELECT ON pg_catalog.pg_locks TO :role"));
    lesser.give(&grants).await;
    lesser.assert_works().await;
    lesser.end().await;
}

#[tokio::test]
async fn role_that_may_not_migrate_is_told_who_may() {
    let lesser = Lesser::on(TestDatabase::empty().await).await;
    let name = lesser.administrator.value("SELECT current_database()").await;
    let text = lesser.refusal().await.to_string();
    assert!(text.contains(&format!("GRANT CREATE ON DATABASE {name} TO {}", lesser.role)), "{text}");

    run(&lesser.database.url, &MigrateOptions::default()).await.unwrap();
    let owner = lesser.administrator.value("SELECT current_user").await;
    lesser.give(&lesser.grants().await).await;
    // As an update brings it: something is to be installed.
    lesser.run("UPDATE headwater.installation SET functions_version = 0").await;
    let text = lesser.refusal().await.to_string();
    assert!(text.contains(&format!("Run `headwater migrate` as {owner}, who owns schema headwater")), "{text}");
    lesser.end().await;
}
