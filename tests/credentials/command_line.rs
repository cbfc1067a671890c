//! `headwater keys`: on the database, whether the service runs or not.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::until_refused;
use crate::support::app::TestApp;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::service_process::ServiceProcess;

/// Exit code, standard output, standard error.
fn keys(place: &[&str], arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .arg("keys")
        .args(arguments)
        .args(place)
        .env_remove("DATABASE_URL")
        .env_remove("HEADWATER_DATABASE_URL")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_used_listed_and_revoked_beside_a_running_service() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let place = ["--database-url", &database.url];
    let create = ["create", "--name", "billing worker", "--scope", "read:*", "--scope", "admin", "--expires-in", "30d"];
    let (code, out, error) = keys(&place, &create);
    assert_eq!(code, 0, "{error}");
    let key = out.trim();
    assert_eq!(out, format!("{key}\n"), "the key alone, for scripts");
    let (id, secret) = (&key[3..16], &key[17..]);
    assert!(error.contains(id) && error.contains("billing worker") && error.contains("read:*"), "{error}");
    assert!(error.contains(&format!("headwater keys revoke {id}")) && !error.contains(secret), "{error}");
    let client = app.client_with(key);
    assert_eq!(client.get("/v1/keys").await.status, 200);

    let (code, out, _) = keys(&place, &["list"]);
    assert_eq!(code, 0);
    let line = out.lines().find(|line| line.starts_with(id)).expect("it is listed");
    assert!(line.contains("billing worker") && line.contains("active") && line.ends_with("read:* admin"), "{out}");
    assert!(out.starts_with("ID ") && !out.contains(secret), "{out}");
    let (_, out, _) = keys(&place, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    let found = listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
    assert_eq!((&found["state"], &found["created_by"]), (&"active".into(), &"command line".into()));
    assert!(!out.contains(secret));

    let (code, out, error) = keys(&place, &["revoke", id]);
    assert_eq!((code, out.as_str()), (0, ""), "{error}");
    assert!(error.contains("billing worker"), "{error}");
    until_refused(&client, "/v1/keys").await;
    // Whoever gives the whole key means the same, and does not see it again.
    let (code, _, error) = keys(&place, &["revoke", key]);
    assert!(code == 0 && !error.contains(secret), "{error}");
    let (code, _, error) = keys(&place, &["revoke", "aaaaaaaaaaaaa"]);
    assert!(code == 1 && error.contains("there is no key aaaaaaaaaaaaa"), "{error}");

    let (code, out, _) = keys(&place, &["create", "--name", "k", "--scope", "read:a-*", "--json"]);
    let made: Value = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && made["key"].as_str().unwrap().contains(made["id"].as_str().unwrap()), "{out}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_needs_no_service_and_no_schema() {
    let database = TestDatabase::empty().await;
    let place = ["--database-url", database.url.as_str()];
    let (code, out, error) = keys(&place, &["create", "--name", "first", "--scope", "admin"]);
    assert_eq!(code, 0, "{error}");
    let service = ServiceProcess::start(&["--listen", "127.0.0.1:0", "--credentials", "required", place[0], place[1]]);
    let request = crate::support::http_client_with(Some(out.trim())).get(format!("{}/v1/keys", service.url));
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert!(service.stop().success());
    // One that nobody can use is still in the list.
    let (code, out, error) = keys(&["--database-url", &TestDatabase::empty().await.url], &["list"]);
    assert!(code == 0 && out.is_empty() && error.contains("headwater keys create"), "{error}");
}

#[test]
fn a_wrong_argument_ends_with_2_and_says_the_rule() {
    for (arguments, part) in [
        (&["create"][..], "--name"),
        (&["create", "--name", "k"], "--scope"),
        (&["create", "--name", "", "--scope", "admin"], "must not be empty"),
        (&["create", "--name", "k", "--scope", "write:*"], "read:<pattern>"),
        (&["create", "--name", "k", "--scope", "read:"], "must not be empty"),
        (&["create", "--name", "k", "--scope", "admin", "--expires-in", "never"], "must be a duration"),
        (&["create", "--name", "k", "--scope", "admin", "--expires-in", "0s"], "must be a duration"),
        (&["revoke"], "<ID>"),
        (&["revoke", "x"], "must be the id of a key"),
        (&["forget"], "forget"),
    ] {
        let (code, out, error) = keys(&[], arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_in_the_embedded_database_running_or_not() {
    let directory = temporary_dir();
    let data = directory.path().join("data");
    let place = ["--data-dir", data.to_str().unwrap(), "--postgres-download", "never"];
    let (code, before, error) = keys(&place, &["create", "--name", "before", "--scope", "admin"]);
    assert_eq!(code, 0, "{error}");
    let service =
        ServiceProcess::start(&[&["--listen", "127.0.0.1:0", "--credentials", "required"][..], &place].concat());
    let (code, beside, error) = keys(&place, &["create", "--name", "beside", "--scope", "admin"]);
    assert_eq!(code, 0, "{error}");
    for key in [before, beside] {
        let request = crate::support::http_client_with(Some(key.trim())).get(format!("{}/v1/keys", service.url));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    assert!(service.stop().success());
}

/// Starts the service with its log in a file; answers the status of a request without a credential, and the log.
async fn served(database: &TestDatabase, arguments: &[&str]) -> (u16, String) {
    let directory = temporary_dir();
    let log = directory.path().join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["serve", "--log", "warn", "--database-url", &database.url])
        .args(arguments)
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let url = line.trim().strip_prefix("headwater listening on ").expect("it starts").replace("0.0.0.0", "127.0.0.1");
    let answer = crate::support::http_client().get(format!("{url}/v1/all/messages")).send().await.unwrap();
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    child.wait().unwrap();
    (answer.status().as_u16(), std::fs::read_to_string(&log).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_says_whether_credentials_are_required_unless_a_setting_does() {
    let database = TestDatabase::migrated().await;
    let (here, everywhere) = (["--listen", "127.0.0.1:0"], ["--listen", "0.0.0.0:0"]);
    let first_key = "headwater keys create --name admin --scope admin";
    for (address, more, status, said) in [
        (here, &[][..], 200, &[][..]),
        (here, &["--insecure"], 200, &[]),
        (here, &["--credentials", "off"], 200, &[]),
        (here, &["--credentials", "required"], 401, &[first_key]),
        (everywhere, &[], 401, &[first_key, "--tls-certificate"]),
        (everywhere, &["--insecure"], 200, &["everybody who reaches this address"]),
        (everywhere, &["--insecure", "--credentials", "off"], 200, &["everybody who reaches this address"]),
        (everywhere, &["--insecure", "--credentials", "required"], 401, &[first_key]),
    ] {
        let (found, log) = served(&database, &[&address[..], more].concat()).await;
        assert_eq!(found, status, "{address:?} {more:?}");
        assert_eq!(log.is_empty(), said.is_empty(), "{address:?} {more:?}: {log}");
        said.iter().for_each(|part| assert!(log.contains(part), "{part} is not in {log}"));
    }
    // Once there is a key, nothing is said of it.
    assert_eq!(keys(&["--database-url", &database.url], &["create", "--name", "k", "--scope", "admin"]).0, 0);
    let (_, log) = served(&database, &["--listen", "127.0.0.1:0", "--credentials", "required"]).await;
    assert_eq!(log, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_cannot_be_used_is_said_at_the_start() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n";
    for (flag, path, part) in [
        ("--jwt-secret-file", "/no/such/file".to_owned(), "/no/such/file"),
        ("--jwt-secret-file", file("short", "too short to be a secret\n"), "less than 32 bytes"),
        ("--jwt-public-key-file", file("text", "no key"), "BEGIN PUBLIC KEY"),
        ("--jwt-public-key-file", file("private", private), "BEGIN PUBLIC KEY"),
        (
            "--jwt-public-key-file",
            // X25519 does not sign.
            file(
                "x25519",
                "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n-----END PUBLIC KEY-----\n",
            ),
            "another kind",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_headwater"))
            .args(["serve", "--listen", "127.0.0.1:0", "--database-url", &database.url, flag, &path])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}: {error}");
        assert!(error.contains(flag) && error.contains(part), "{part} is not in {error}");
        assert!(!error.contains("too short to be") && !error.contains("MC4CAQ"), "{error}");
    }
}
