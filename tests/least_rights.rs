//! An owner migrates, and the service runs as a role that may do what it needs and nothing else.

use serde_json::{Value, json};

use crate::conformance::{Session, unique};
use crate::support::app::TestApp;
use crate::support::append_session::AppendSession;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::transfer;

/// A database that its owner has migrated, and a role that `headwater migrate --grant-to` gave its rights.
struct Granted {
    database: TestDatabase,
    owner: Session,
    role: String,
    /// What the command printed.
    printed: String,
}

impl Granted {
    async fn with(extras: &[&str]) -> Self {
        let database = TestDatabase::empty().await;
        let owner = Session::open_plain(&database.url).await;
        let role = unique("Serves");
        owner.run(&format!("CREATE ROLE \"{role}\"")).await;
        // As a database of one program would have it.
        let name = owner.value("SELECT current_database()").await;
        owner.run(&format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")).await;
        let printed = grant(&database, &role, extras).await;
        Self { database, owner, role, printed }
    }

    /// As a setting of the connection: the server may not let the role log in.
    fn url(&self) -> String {
        let separator = if self.database.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}options=-c%20role%3D{}", self.database.url, self.role)
    }

    /// What PostgreSQL says to a statement of the role.
    async fn refusal(&self, statement: &str) -> String {
        let client = self.database.connect().await;
        client.batch_execute(&format!("SET ROLE \"{}\"", self.role)).await.unwrap();
        match client.batch_execute(statement).await {
            Ok(()) => "done".to_owned(),
            Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
        }
    }

    async fn end(self) {
        self.owner.run(&format!("DROP OWNED BY \"{0}\"; DROP ROLE \"{0}\"", self.role)).await;
    }
}

/// `headwater migrate --grant-to`, by the owner.
async fn grant(database: &TestDatabase, role: &str, extras: &[&str]) -> String {
    let mut arguments = vec!["migrate", "--grant-to", role];
    let extras = extras.join(",");
    if !extras.is_empty() {
        arguments.extend(["--grant", &extras]);
    }
    let (code, printed, error) = transfer::run(&database.url, &arguments).await;
    assert_eq!(code, 0, "{error}");
    printed
}

const INSUFFICIENT_PRIVILEGE: &str = "42501";

#[tokio::test]
async fn everything_that_the_service_does_is_done_as_a_role_with_the_rights_that_migrate_gives() {
    let granted = Granted::with(&["trim", "erase", "import"]).await;
    let app = TestApp::with(&granted.url(), |settings| {
        settings.retention_interval = std::time::Duration::from_millis(100);
    })
    .await;
    let mut events = app.follow("/v1/all/events").await;
    events.next("caught-up").await;
    for n in 0..5 {
        app.write("account-1", "Deposited", json!({ "n": n, "key": "X1" })).await;
    }
    events.messages(5).await;
    let mut session = AppendSession::open(&app, "account-2").await;
    session.write([&json!({ "type": "Opened", "data": { "key": "X2" } })]).await;
    session.end();
    session.rest().await;

    let keyed = json!({ "categories": ["account"], "partitioner": { "kind": "key", "of": "data", "pointer": "/key" } });
    let hashed = json!({ "categories": ["account"], "partitioner": { "kind": "cardinal_id", "partitions": 2 } });
    let (put, post, delete, get) = ("PUT", "POST", "DELETE", "GET");
    let asked = |method: &'static str, path: &str, body: Value| (method, path.to_owned(), body);
    let none = || Value::Null;
    for (method, path, body) in [
        asked(put, "/v1/aggregated-streams/by-key", keyed),
        asked(put, "/v1/aggregated-streams/by-account", hashed),
        asked(get, "/v1/aggregated-streams/by-key?min_position=6&wait=10s", none()),
        asked(get, "/v1/aggregated-streams/by-key/keys/X1/messages", none()),
        asked(get, "/v1/aggregated-streams/by-account/partitions/0/messages", none()),
        asked(get, "/v1/aggregated-streams/by-account/positions?global_position=1", none()),
        asked(post, "/v1/aggregated-streams/by-account/pause", none()),
        asked(post, "/v1/aggregated-streams/by-account/resume", none()),
        asked(post, "/v1/aggregated-streams/by-account/rebuild", none()),
        asked(put, "/v1/subscriptions/competing", json!({ "source": { "category": "account" }, "mode": "competing" })),
        asked(
            put,
            "/v1/subscriptions/partitioned",
            json!({ "source": { "aggregated_stream": "by-key" }, "partitions": 2 }),
        ),
        asked(post, "/v1/subscriptions/partitioned/fetch", json!({ "consumer": "w1", "wait": "5s" })),
        asked(get, "/v1/subscriptions/partitioned/consumers", none()),
        asked(post, "/v1/subscriptions/partitioned/seek", json!({ "to": "end" })),
        asked(post, "/v1/subscriptions/partitioned/pause", none()),
        asked(post, "/v1/subscriptions/partitioned/resume", none()),
        asked("PATCH", "/v1/subscriptions/partitioned", json!({ "max_deliveries": 3 })),
        asked(get, "/v1/subscriptions/partitioned", none()),
        asked(
            post,
            "/v1/appends",
            json!({
                "appends": [{ "stream_name": "order-1", "messages": [{ "type": "Placed" }] }],
                "conditions": [
                    { "stream_name": "account-1", "version": 4 },
                    { "categories": ["payment"], "after": 0 },
                ],
            }),
        ),
        asked(get, "/v1/all/messages?filter=data.n%20%3E%201&from_time=2020-01-01T00:00:00Z", none()),
        asked(get, "/v1/categories/account/messages", none()),
        asked(get, "/v1/streams/account-1", none()),
        asked(get, "/v1/reports/streams", none()),
        asked(get, "/v1/reports/categories", none()),
        asked(get, "/v1/reports/types", none()),
        asked(get, "/v1/reports/settled", none()),
        asked(get, "/readyz", none()),
        asked(get, "/metrics", none()),
    ] {
        let answer = send(&app, method, &path, &body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text);
    }
    deliveries(&app).await;

    let id = app.get("/v1/streams/account-1/messages").await.json()["messages"][1]["id"].as_str().unwrap().to_owned();
    for (method, path, body) in [
        (delete, format!("/v1/messages/{id}?reason=asked"), none()),
        (post, "/v1/streams/account-1/trim".to_owned(), json!({ "keep_last": 3, "unless_unacked": false })),
        (put, "/v1/categories/account/retention".to_owned(), json!({ "max_count": 2, "unless_unacked": false })),
        (get, "/v1/retentions".to_owned(), none()),
    ] {
        let answer = send(&app, method, &path, &body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text);
    }
    crate::support::waiting::eventually("the retention to trim", async || {
        let page = app.get("/v1/streams/account-1/messages").await.json();
        (page["messages"].as_array().map(Vec::len) == Some(1)).then_some(())
    })
    .await;
    for path in [
        "/v1/categories/account/retention",
        "/v1/subscriptions/partitioned",
        "/v1/aggregated-streams/by-key",
        "/v1/aggregated-streams/by-account",
    ] {
        let answer = app.delete(path).await;
        assert!((200..300).contains(&answer.status), "{path}: {}", answer.text);
    }
    for kind in ["refused", "bug"] {
        assert_eq!(app.metric(&format!("headwater_store_errors_total{{kind=\"{kind}\"}}")).await, 0.0, "{kind}");
    }
    drop(events);
    app.stop().await;
    granted.end().await;
}

async fn send(app: &TestApp, method: &str, path: &str, body: &Value) -> crate::support::app::Answer {
    let request = app.http.request(method.parse().unwrap(), format!("{}{path}", app.url));
    let request = if body.is_null() { request } else { request.json(body) };
    crate::support::app::Answer::of(request.send().await.unwrap()).await
}

/// All that may become of a delivery.
async fn deliveries(app: &TestApp) {
    let path = |end: &str| format!("/v1/subscriptions/competing/{end}");
    let fetched = app.post(&path("fetch"), &json!({ "consumer": "w1", "limit": 4, "wait": "5s" })).await.json();
    let given = fetched["messages"].as_array().unwrap();
    assert_eq!(given.len(), 4, "{fetched}");
    let place = |number: usize| {
        let (position, epoch) = (&given[number]["position"], &given[number]["epoch"]);
        json!({ "partition": 0, "position": position, "epoch": epoch })
    };
    let mut parked = place(1);
    parked["action"] = "park".into();
    for (end, body) in [
        ("acks", json!({ "consumer": "w1", "acks": [place(0)] })),
        ("nacks", json!({ "consumer": "w1", "nacks": [parked] })),
        ("extensions", json!({ "consumer": "w1", "extensions": [place(2)], "ack_timeout": "60s" })),
        ("claims", json!({ "consumer": "w2", "min_idle": "0s", "limit": 10 })),
        ("parked/replay", json!({ "all": true })),
    ] {
        let answer = app.post(&path(end), &body).await;
        assert!((200..300).contains(&answer.status), "{end}: {}", answer.text);
    }
    for end in ["pending", "pending/summary", "parked", "consumers"] {
        assert_eq!(app.get(&path(end)).await.status, 200, "{end}");
    }
    let mut events = app.follow(&path("events?consumer=w3")).await;
    events.next("message").await;
    drop(events);
    for end in ["consumers/w2", ""] {
        let answer = app.delete(path(end).trim_end_matches('/')).await;
        assert!((200..300).contains(&answer.status), "{end}: {}", answer.text);
    }
}

#[tokio::test]
async fn an_export_and_an_import_are_done_as_that_role_too() {
    let (from, to) = (Granted::with(&[]).await, Granted::with(&["import"]).await);
    let app = TestApp::with(&from.url(), |_| {}).await;
    let position = app.write("account-1", "Opened", json!({ "n": 1 })).await;
    app.stop().await;
    let directory = temporary_dir();
    let file = directory.path().join("messages.ndjson");
    let file = file.to_str().unwrap();
    for (url, command) in [(from.url(), "export"), (to.url(), "import")] {
        let (code, _, error) = transfer::run(&url, &[command, file]).await;
        assert_eq!(code, 0, "{command}: {error}");
    }
    assert_eq!(to.owner.value("SELECT global_position FROM message_store.messages").await, position.to_string());
    from.end().await;
    to.end().await;
}

#[tokio::test]
async fn the_role_can_do_nothing_else() {
    let granted = Granted::with(&[]).await;
    let app = TestApp::with(&granted.url(), |_| {}).await;
    app.write("account-1", "Opened", json!({ "n": 1 })).await;
    for statement in [
        "DELETE FROM message_store.messages",
        "UPDATE message_store.messages SET data = NULL",
        "TRUNCATE message_store.messages",
        "SELECT setval('message_store.messages_global_position_seq', 1)",
        "DROP TABLE message_store.messages",
        "ALTER TABLE message_store.messages ADD COLUMN other text",
        "CREATE TABLE message_store.other (id int)",
        "CREATE TRIGGER other BEFORE INSERT ON message_store.messages EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE headwater.other (id int)",
        "CREATE TABLE public.other (id int)",
        "CREATE SCHEMA other",
        "TRUNCATE headwater.subscriptions",
        "DROP TABLE headwater.subscriptions",
        "CREATE OR REPLACE FUNCTION message_store.category(text) RETURNS text LANGUAGE sql AS 'SELECT 1'",
        "DROP FUNCTION message_store.write_message",
        "INSERT INTO headwater.migrations (version, name, checksum, outcome) VALUES (99, 'other', '', 'applied')",
        "UPDATE headwater.migrations SET checksum = ''",
        "UPDATE headwater.installation SET functions_version = 0",
        "DELETE FROM headwater.installation",
        "CREATE ROLE other",
        "CREATE TEMPORARY TABLE other (id int)",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY message_store.messages TO PROGRAM 'cat'",
        "SELECT rolpassword FROM pg_authid",
    ] {
        assert_eq!(granted.refusal(statement).await, INSUFFICIENT_PRIVILEGE, "{statement}");
    }
    // The service says which right is missing for what it was not given.
    let id = app.get("/v1/streams/account-1/messages").await.json()["messages"][0]["id"].as_str().unwrap().to_owned();
    let answer = app.delete(&format!("/v1/messages/{id}")).await;
    assert!(answer.text.contains("GRANT UPDATE ON message_store.messages"), "{}", answer.text);
    app.write("account-1", "Deposited", json!({})).await;
    let answer = app.post("/v1/streams/account-1/trim", &json!({ "keep_last": 1 })).await;
    assert!(answer.text.contains("GRANT DELETE ON message_store.messages"), "{}", answer.text);
    app.stop().await;
    granted.end().await;
}

#[tokio::test]
async fn what_is_given_is_printed_and_given_again_changes_nothing() {
    let granted = Granted::with(&[]).await;
    let (role, database) = (&granted.role, &granted.database);
    let statements: Vec<_> = granted.printed.lines().filter(|line| line.starts_with("GRANT ")).collect();
    assert!(statements.len() >= 6, "{}", granted.printed);
    for statement in &statements {
        assert!(statement.ends_with(&format!(" TO \"{role}\";")), "{statement}");
        assert!(!statement.contains("ALL PRIVILEGES") && !statement.contains("WITH GRANT OPTION"), "{statement}");
    }
    assert!(
        !granted.printed.contains("DELETE ON message_store") && !granted.printed.contains("UPDATE ON message_store")
    );
    let again = grant(database, role, &[]).await;
    assert_eq!(again.lines().filter(|line| line.starts_with("GRANT ")).collect::<Vec<_>>(), statements);
    // Only looked at: nothing is given.
    let other = unique("other");
    granted.owner.run(&format!("CREATE ROLE {other}")).await;
    let (code, printed, _) = transfer::run(&database.url, &["migrate", "--check", "--grant-to", &other]).await;
    assert!(code == 0 && printed.contains(&format!("GRANT SELECT, INSERT ON message_store.messages TO \"{other}\"")));
    let may = format!("SELECT has_table_privilege('{other}', 'message_store.messages', 'SELECT')");
    assert_eq!(granted.owner.value(&may).await, "f");
    let (code, _, error) = transfer::run(&database.url, &["migrate", "--grant-to", "nobody; DROP"]).await;
    assert!(code != 0 && error.contains("nobody; DROP"), "{error}");
    granted.owner.run(&format!("DROP ROLE {other}")).await;
    granted.end().await;
}
