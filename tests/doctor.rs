//! `headwater doctor` finds each fault that can be made, says what to do, and fails for it; and finds none where there is none.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::certificate::PemPair;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::front::free_port;
use crate::support::http_client;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::eventually;

/// What it says as JSON, and its exit code.
async fn doctor(arguments: &[&str]) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    // Nobody is asked at the usual address.
    let listen: &[&str] = if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
    command.args(["doctor", "--json"]).args(listen).args(arguments).env_remove("DATABASE_URL");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let document = serde_json::from_str(&out);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), document.unwrap_or_else(|error| panic!("{error}: {out}\n{log}")))
}

fn wrong(document: &Value) -> Vec<&Value> {
    let findings = document["findings"].as_array().unwrap();
    let wrong: Vec<&Value> = findings.iter().filter(|finding| finding["level"] == "wrong").collect();
    assert!(wrong.iter().all(|finding| finding["advice"].is_string()), "{document:#}");
    assert_eq!(document["wrong"], wrong.len());
    wrong
}

/// Asserts that this one thing is wrong, and nothing else.
async fn finds(arguments: &[&str], check: &str, text: &str) -> Value {
    let (code, document) = doctor(arguments).await;
    let found = wrong(&document);
    assert_eq!((code, found.len()), (1, 1), "{document:#}");
    assert_eq!(found[0]["check"], check, "{document:#}");
    let said = format!("{} {}", found[0]["found"], found[0]["advice"]);
    assert!(said.contains(text), "{text} is not in {said}");
    document
}

fn level_of(document: &Value, check: &str) -> Value {
    let findings = document["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).map_or(Value::Null, |finding| finding["level"].clone())
}

#[tokio::test]
async fn where_nothing_is_wrong_it_says_so() {
    let database = TestDatabase::migrated().await;
    let (code, document) = doctor(&["--database-url", &database.url]).await;
    assert_eq!((code, wrong(&document).len()), (0, 0), "{document:#}");
    for check in [
        "version",
        "settings",
        "database",
        "schema",
        "gap_rule",
        "open_transactions",
        "sequence",
        "notify",
        "clock",
        "connections",
        "durability",
    ] {
        // The server of the tests may run without fsync, or with other things that are worth a note.
        assert!(
            ["ok", "note"].contains(&level_of(&document, check).as_str().unwrap_or_default()),
            "{check}: {document:#}"
        );
    }
    // A database with nothing in it: the first start does the rest. Looking changes nothing.
    let empty = TestDatabase::empty().await;
    let (code, document) = doctor(&["--database-url", &empty.url]).await;
    assert_eq!((code, level_of(&document, "schema")), (0, json!("note")), "{document:#}");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('headwater', 'message_store')";
    assert_eq!(empty.connect().await.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn transactions_that_hold_messages_back_are_named_with_what_ends_them() {
    let database = TestDatabase::migrated().await;
    let arguments = ["--database-url", &database.url, "--held-back-warning", "100ms"];
    let sql = database.connect().await;
    let pid: i32 = sql.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let write =
        "SELECT message_store.write_message(gen_random_uuid()::text, 'slow-1', 'T', '{}'); SELECT pg_sleep(0.2)";
    sql.batch_execute(&format!("SET application_name = 'the slow one'; BEGIN; {write}")).await.unwrap();
    let document = finds(&arguments, "open_transactions", &format!("pg_terminate_backend({pid})")).await;
    assert!(document.to_string().contains("the slow one"), "{document:#}");
    sql.batch_execute("ROLLBACK; BEGIN; LOCK TABLE message_store.messages IN SHARE MODE; SELECT pg_sleep(0.2)")
        .await
        .unwrap();
    let (_, document) = doctor(&arguments).await;
    assert!(wrong(&document)[0]["found"].as_str().unwrap().contains("keeps everybody from writing"), "{document:#}");
    sql.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(doctor(&arguments).await.0, 0);
}

#[tokio::test]
async fn a_sequence_that_may_skip_messages_is_found() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let arguments = ["--database-url", &database.url];
    let sequence = "message_store.messages_global_position_seq";
    sql.batch_execute(&format!("ALTER SEQUENCE {sequence} CACHE 20")).await.unwrap();
    finds(&arguments, "sequence", "CACHE 1").await;
    let by_hand =
        "INSERT INTO message_store.messages (stream_name, type, position, global_position) VALUES ('a-1', 'T', 0, 900)";
    sql.batch_execute(&format!("ALTER SEQUENCE {sequence} CACHE 1; {by_hand}")).await.unwrap();
    finds(&arguments, "sequence", "setval").await;
}

#[tokio::test]
async fn functions_and_rights_that_are_missing_are_found() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute("DROP FUNCTION headwater.erasure(uuid)").await.unwrap();
    finds(&["--database-url", &database.url], "schema", "headwater migrate").await;

    let database = TestDatabase::migrated().await;
    let role = format!("doctor_{}", uuid::Uuid::new_v4().simple());
    let sql = database.connect().await;
    sql.batch_execute(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA headwater, message_store TO {role}"))
        .await
        .unwrap();
    let mut url = database.url.clone();
    let at = url.find("://").unwrap() + 3;
    let end = url[at..].find('@').unwrap() + at;
    url.replace_range(at..end, &role);
    let (code, document) = doctor(&["--database-url", &url]).await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sql.batch_execute(&drop).await.unwrap();
    let found = wrong(&document);
    assert_eq!((code, found.len(), &found[0]["check"]), (1, 1, &json!("rights")), "{document:#}");
    let said = found[0]["found"].as_str().unwrap();
    assert!(said.contains("GRANT SELECT, INSERT ON message_store.messages"), "{said}");
}

#[tokio::test]
async fn settings_of_the_database_that_lose_or_refuse_messages_are_found() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let name: String = sql.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let arguments = ["--database-url", &database.url];
    sql.batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await.unwrap();
    finds(&arguments, "read_only", "default_transaction_read_only").await;
    sql.batch_execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await.unwrap();
    sql.batch_execute(&format!("ALTER DATABASE {name} SET synchronous_commit = off")).await.unwrap();
    let (code, document) = doctor(&arguments).await;
    assert_eq!((code, level_of(&document, "durability")), (0, json!("note")), "{document:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_to_the_database_that_loses_notifications_is_found() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    // As a pooler in transaction mode: it is taken, and has no effect.
    proxy.rewrite("LISTEN headwater", "LISTEN headwat3r");
    finds(&["--database-url", &proxy.url], "notify", "transaction mode").await;
}

#[tokio::test]
async fn a_database_that_is_away_and_settings_that_cannot_be_used_are_found() {
    finds(&["--database-url", "postgresql://nobody@127.0.0.1:1/none"], "database", "cannot be reached").await;
    let database = TestDatabase::migrated().await;
    let url = ["--database-url", &database.url];
    finds(&[&url[..], &["--jwt-secret-file", "/nowhere"]].concat(), "settings", "/nowhere").await;
    finds(&[&url[..], &["--database-connections-max", "900"]].concat(), "connections", "max_connections").await;
    let directory = temporary_dir();
    let (one, two) = (PemPair::make(directory.path(), "one"), PemPair::make(directory.path(), "two"));
    let (certificate, key) = (one.certificate.to_str().unwrap(), two.key.to_str().unwrap());
    let tls = ["--tls-certificate", certificate, "--tls-key", key];
    finds(&[&url[..], &tls].concat(), "settings", certificate).await;
}

#[tokio::test]
async fn it_looks_at_the_embedded_server_while_the_service_runs_and_while_it_does_not() {
    let directory = temporary_dir();
    let data_dir = directory.path().join("data");
    let arguments = ["--data-dir", data_dir.to_str().unwrap()];
    // Before the first start there is nothing to look at, and nothing is made.
    let (code, document) = doctor(&arguments).await;
    assert_eq!((code, level_of(&document, "database")), (0, json!("note")), "{document:#}");
    assert!(!data_dir.exists());
    // A port that nobody else gets once the service has ended.
    let listen = format!("127.0.0.1:{}", free_port());
    let service = ServiceProcess::start(&[&arguments[..], &["--listen", &listen]].concat());
    let ready = format!("{}/readyz", service.url);
    let is_ready = || async { http_client().get(&ready).send().await.unwrap().status().is_success().then_some(()) };
    eventually("the service is ready", is_ready).await;
    let (code, document) = doctor(&[&arguments[..], &["--listen", &listen]].concat()).await;
    assert_eq!(code, 0, "{document:#}");
    for check in ["service", "database", "disk", "notify", "gap_rule"] {
        assert_eq!(level_of(&document, check), "ok", "{check}: {document:#}");
    }
    assert!(service.stop().success());
    let (code, document) = doctor(&[&arguments[..], &["--listen", &listen]].concat()).await;
    assert_eq!((code, level_of(&document, "database")), (0, json!("ok")), "{document:#}");
    assert_eq!(level_of(&document, "service"), "note", "{document:#}");
}

/// Where something else has the address.
#[tokio::test]
async fn another_program_at_the_address_is_found() {
    let database = TestDatabase::migrated().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    let router = axum::Router::new().route("/readyz", axum::routing::get(async || "ok"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    finds(&["--database-url", &database.url, "--listen", &listen], "service", "no Headwater").await;
}
