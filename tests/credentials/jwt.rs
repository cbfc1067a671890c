//! JWTs: taken if they are signed with a key of the service, by an algorithm of that key's kind, and say what they must.

use std::path::PathBuf;
use std::time::Duration;

use headwater::config::Settings;
use serde_json::{Value, json};

use super::until_refused;
use crate::support::app::TestApp;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::jwt::{Answers, Issuer, JwksServer, RSA_PUBLIC_PEM, claims, now};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Writes files for the settings; they are read when the service starts.
fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn app_with(database: &TestDatabase, change: impl FnOnce(&mut Settings)) -> TestApp {
    TestApp::guarded_with(&database.url, change).await
}

async fn status(app: &TestApp, token: &str) -> u16 {
    app.client_with(token).get("/v1/all/messages").await.status
}

#[tokio::test]
async fn every_kind_of_key_and_algorithm_is_taken() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let issuers = [Issuer::rsa(), Issuer::p256(), Issuer::p384(), Issuer::ed25519()];
    let files: Vec<_> =
        issuers.iter().enumerate().map(|(at, issuer)| file(&directory, &format!("{at}.pem"), &issuer.pem())).collect();
    let secret = file(&directory, "secret", &format!("{SECRET}\n"));
    let app = app_with(&database, |settings| {
        settings.auth.jwt_public_key_file = files;
        settings.auth.jwt_secret_file = Some(secret);
    })
    .await;
    for issuer in issuers.iter().chain([&Issuer::secret(SECRET)]) {
        for algorithm in issuer.algorithms() {
            let token = issuer.token(algorithm, &claims("read:*"));
            assert_eq!(status(&app, &token).await, 200, "{algorithm}");
            // And again, from memory.
            assert_eq!(status(&app, &token).await, 200, "{algorithm}");
            let mut broken = token.clone();
            let last = broken.pop().unwrap();
            broken.push(if last == 'A' { 'Q' } else { 'A' });
            assert_eq!(status(&app, &broken).await, 401, "{algorithm}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn each_thing_that_is_wrong_with_a_token_is_enough() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let secret = file(&directory, "secret", SECRET);
    let app = app_with(&database, |settings| {
        settings.auth.jwt_secret_file = Some(secret);
        settings.auth.jwt_audience = vec!["headwater".into(), "events".into()];
        settings.auth.jwt_issuer = vec!["https://id.example".into()];
        settings.auth.jwt_leeway = Duration::from_secs(10);
    })
    .await;
    let issuer = Issuer::secret(SECRET);
    let good = json!({
        "sub": "ada", "exp": now() + 600, "nbf": now() - 5, "aud": "headwater", "iss": "https://id.example",
        "scope": "openid read:* profile",
    });
    let with = |field: &str, value: Value| {
        let mut claims = good.clone();
        claims[field] = value;
        claims
    };
    let without = |field: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(field);
        claims
    };
    for claims in [
        good.clone(),
        with("aud", json!(["other", "events"])),
        with("exp", json!(now() as f64 + 100.5)),
        // Within the leeway.
        with("exp", json!(now() - 5)),
        with("nbf", json!(now() + 5)),
        without("nbf"),
        without("sub"),
    ] {
        let answer = app.client_with(&issuer.token("HS256", &claims)).get("/v1/all/messages").await;
        assert_eq!(answer.status, 200, "{claims}: {}", answer.text);
    }
    for (claims, says) in [
        (with("exp", json!(now() - 60)), "expired"),
        (with("exp", json!(0)), "expired"),
        (with("exp", json!(-1)), ""),
        (with("exp", json!("99999999999")), "exp"),
        (with("exp", Value::Null), "exp"),
        (with("exp", json!([now() + 600])), ""),
        (without("exp"), "exp"),
        (with("nbf", json!(now() + 60)), "not valid yet"),
        (with("nbf", json!("0")), ""),
        (with("aud", json!("other")), "aud"),
        (with("aud", json!(["other"])), "aud"),
        (with("aud", json!([])), "aud"),
        (with("aud", json!(5)), "aud"),
        (without("aud"), "aud"),
        (with("iss", json!("https://evil.example")), "iss"),
        (with("iss", json!("https://id.example/")), "iss"),
        (without("iss"), "iss"),
        (with("scope", json!(5)), ""),
    ] {
        let answer = app.client_with(&issuer.token("HS256", &claims)).get("/v1/all/messages").await;
        let problem = answer.problem(401, "unauthenticated");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{claims}: {detail}");
    }
    let other = Issuer::secret("another secret, which is as long as that").token("HS256", &good);
    let (whole, none) = (issuer.token("HS256", &good), issuer.token("none", &good));
    let parts: Vec<&str> = whole.split('.').collect();
    let [header, body, signature] = parts[..] else { panic!("three parts") };
    for token in [
        other,
        none.clone(),
        format!("{}.", none.rsplit_once('.').unwrap().0),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!("{header}..{signature}"),
        format!(".{body}.{signature}"),
        format!("{header}.{body}.{signature}.{signature}"),
        format!("{header}.{body}.{signature}="),
        issuer.token_with(&json!({ "alg": "HS256", "crit": ["exp"], "exp": 1 }), &good),
        issuer.token_with(&json!({ "typ": "JWT" }), &good),
        issuer.token_with(&json!({ "alg": "hs256" }), &good),
        issuer.token_with(&json!({ "alg": "RS256" }), &good),
        issuer.token("HS256", &json!([])),
        issuer.token("HS256", &json!("text")),
    ] {
        assert_eq!(status(&app, &token).await, 401);
    }
    app.stop().await;
}

#[tokio::test]
async fn without_an_audience_of_its_own_no_token_for_somebody_else_is_taken() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let secret = file(&directory, "secret", SECRET);
    let app = app_with(&database, |settings| settings.auth.jwt_secret_file = Some(secret)).await;
    let issuer = Issuer::secret(SECRET);
    let mut claims = claims("read:*");
    assert_eq!(status(&app, &issuer.token("HS256", &claims)).await, 200);
    claims["aud"] = json!("other");
    assert_eq!(status(&app, &issuer.token("HS256", &claims)).await, 401);
    app.stop().await;
}

#[tokio::test]
async fn a_key_is_used_for_its_own_algorithms_alone() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let (p256, ed25519) = (Issuer::p256(), Issuer::ed25519());
    let files = [RSA_PUBLIC_PEM.to_owned(), p256.pem(), ed25519.pem()];
    let files = files.iter().enumerate().map(|(at, pem)| file(&directory, &format!("{at}.pem"), pem)).collect();
    let app = app_with(&database, |settings| settings.auth.jwt_public_key_file = files).await;
    let claims = claims("admin");
    // The public key as a secret: in all the forms in which somebody might take it.
    for pem in [RSA_PUBLIC_PEM, &p256.pem(), &ed25519.pem()] {
        for secret in [pem, pem.trim(), pem.trim_end_matches('\n'), &pem.replace('\n', "")] {
            for algorithm in ["HS256", "HS384", "HS512"] {
                assert_eq!(status(&app, &Issuer::secret(secret).token(algorithm, &claims)).await, 401);
            }
        }
    }
    // Signed by the right key, with another algorithm in the header.
    for (issuer, algorithms) in [
        (&p256, &["ES384", "RS256", "EdDSA", "HS256", "none"][..]),
        (&ed25519, &["ES256", "RS256", "HS256", "none"]),
        (&Issuer::rsa(), &["ES256", "EdDSA", "HS256", "none"]),
        (&Issuer::p256(), &["ES256"]),
        (&Issuer::p384(), &["ES384", "ES256"]),
    ] {
        for algorithm in algorithms {
            assert_eq!(status(&app, &issuer.token(algorithm, &claims)).await, 401, "{algorithm}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn scopes_are_a_text_or_a_list_and_those_of_others_mean_nothing() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let secret = file(&directory, "secret", SECRET);
    let app = app_with(&database, |settings| settings.auth.jwt_secret_file = Some(secret)).await;
    let issuer = Issuer::secret(SECRET);
    let may = async |more: Value| {
        let mut claims = json!({ "exp": now() + 600 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app.client_with(&issuer.token("HS256", &claims)).get("/v1/keys").await.status == 200
    };
    for more in [
        json!({ "scope": "admin" }),
        json!({ "scope": "openid  admin email" }),
        json!({ "scopes": ["admin"] }),
        json!({ "scopes": ["openid", "admin"], "scope": "profile" }),
        json!({ "scope": ["admin"] }),
    ] {
        assert!(may(more.clone()).await, "{more}");
    }
    for more in [
        json!({}),
        json!({ "scope": "" }),
        json!({ "scope": "Admin admin:* administrator" }),
        json!({ "scopes": [] }),
        json!({ "scopes": ["admin read:*"] }),
        json!({ "roles": ["admin"] }),
        json!({ "scp": "admin" }),
    ] {
        assert!(!may(more.clone()).await, "{more}");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_was_opened_with_a_token_ends_when_it_expires() {
    let database = TestDatabase::migrated().await;
    let directory = temporary_dir();
    let secret = file(&directory, "secret", SECRET);
    let app = app_with(&database, |settings| {
        settings.auth.jwt_secret_file = Some(secret);
        settings.auth.jwt_leeway = Duration::ZERO;
    })
    .await;
    let client =
        app.client_with(&Issuer::secret(SECRET).token("HS256", &json!({ "exp": now() + 3, "scope": "read:*" })));
    let ticket = client.post("/v1/tickets", &json!({ "scopes": ["read:*"], "ttl": "1h" })).await.json();
    let mut open = vec![client.follow("/v1/all/events").await];
    let path = format!("/v1/all/events?ticket={}", ticket["ticket"].as_str().unwrap());
    open.push(app.client_without().follow(&path).await);
    for events in &mut open {
        let closing = tokio::time::timeout(Duration::from_secs(8), events.next("closing")).await.expect("in time");
        assert_eq!(closing.json(), json!({ "reason": "expired" }));
    }
    client.get("/v1/all/messages").await.problem(401, "unauthenticated");
    app.client_without().get(&path).await.problem(401, "unauthenticated");
    app.stop().await;
}

async fn app_on(database: &TestDatabase, server: &JwksServer) -> TestApp {
    let url = server.url.clone();
    app_with(database, |settings| {
        settings.auth.jwks_url = Some(url);
        settings.auth.jwks_refresh = Duration::from_secs(1);
    })
    .await
}

async fn until_taken(app: &TestApp, token: &str) {
    let taken = async { while status(app, token).await != 200 {} };
    tokio::time::timeout(Duration::from_secs(20), taken).await.expect("the token is taken");
}

#[tokio::test]
async fn keys_of_a_url_are_fetched_and_rotated() {
    let database = TestDatabase::migrated().await;
    let (old, new, rsa) = (Issuer::p256(), Issuer::ed25519(), Issuer::rsa());
    let server = JwksServer::start(&[old.jwk("old"), rsa.jwk("rsa")]).await;
    let app = app_on(&database, &server).await;
    let claims = claims("read:*");
    let (of_old, of_new) = (old.token_of("old", &claims), new.token_of("new", &claims));
    until_taken(&app, &of_old).await;
    assert_eq!(status(&app, &rsa.token_of("rsa", &claims)).await, 200);
    assert_eq!(status(&app, &rsa.token("PS512", &claims)).await, 200, "without `kid` all keys of the kind are tried");
    let mut open = app.client_with(&of_old).follow("/v1/all/events").await;

    // A token of a new key is taken at once: its key is fetched.
    server.has(&[old.jwk("old"), new.jwk("new"), rsa.jwk("rsa")]);
    assert_eq!(status(&app, &of_new).await, 200);
    assert_eq!(status(&app, &of_old).await, 200);
    // A token of another key than it says is none.
    assert_eq!(status(&app, &rsa.token_of("old", &claims)).await, 401);
    assert_eq!(status(&app, &old.token_of("rsa", &claims)).await, 401);
    // A key that was taken away is gone, for what is open too.
    server.has(&[new.jwk("new")]);
    assert_eq!(open.next("closing").await.json(), json!({ "reason": "expired" }));
    until_refused(&app.client_with(&of_old), "/v1/all/messages").await;
    assert_eq!(status(&app, &of_new).await, 200);
    app.stop().await;
}

/// Whoever has a key that was stolen could make tickets just before it is taken away.
#[tokio::test]
async fn a_ticket_ends_with_the_key_that_its_makers_token_was_signed_with() {
    let database = TestDatabase::migrated().await;
    let (old, new) = (Issuer::p256(), Issuer::ed25519());
    let server = JwksServer::start(&[old.jwk("old"), new.jwk("new")]).await;
    let app = app_on(&database, &server).await;
    let other = app_on(&database, &server).await;
    let claims = claims("read:*");
    let mut open = Vec::new();
    for token in [old.token_of("old", &claims), new.token_of("new", &claims)] {
        until_taken(&app, &token).await;
        let made = app.client_with(&token).post("/v1/tickets", &json!({ "scopes": ["read:*"] })).await.json();
        let ticket = made["ticket"].as_str().unwrap().to_owned();
        // Without its own token, and on every instance.
        for app in [&app, &other] {
            let path = format!("/v1/all/events?ticket={ticket}");
            let mut events = app.client_without().follow(&path).await;
            events.next("caught-up").await;
            open.push((app, path, events));
        }
    }
    server.has(&[new.jwk("new")]);
    for (app, path, mut events) in open.drain(..2) {
        assert_eq!(events.next("closing").await.json(), json!({ "reason": "expired" }));
        until_refused(&app.client_without(), &path).await;
    }
    // The others end too, and come back.
    for (app, path, mut events) in open {
        assert_eq!(events.next("closing").await.json(), json!({ "reason": "expired" }));
        app.client_without().follow(&path).await.next("caught-up").await;
    }
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn known_keys_go_on_whatever_the_url_answers() {
    let database = TestDatabase::migrated().await;
    let issuer = Issuer::p256();
    let server = JwksServer::start(&[issuer.jwk("a")]).await;
    let app = app_on(&database, &server).await;
    let token = |number: i64| issuer.token_of("a", &json!({ "exp": now() + 600, "scope": "read:*", "jti": number }));
    until_taken(&app, &token(0)).await;
    let huge = json!({ "keys": [issuer.jwk("b")], "padding": "x".repeat(300 << 10) }).to_string();
    for (number, answers) in [
        Answers::Closed,
        Answers::With(500, String::new()),
        Answers::With(404, "not found".into()),
        Answers::With(302, String::new()),
        Answers::With(200, "<html>".into()),
        Answers::With(200, "{}".into()),
        Answers::With(200, json!({ "keys": [] }).to_string()),
        Answers::With(200, json!({ "keys": [{ "kty": "new" }, 5] }).to_string()),
        Answers::With(200, json!({ "keys": [Issuer::secret(SECRET).jwk("s")] }).to_string()),
        Answers::With(200, huge),
        Answers::NeverWhole,
    ]
    .into_iter()
    .enumerate()
    {
        server.answers(answers);
        let asked = server.asked();
        let fetched = async {
            while server.asked() < asked + 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), fetched).await.expect("it is asked again");
        assert_eq!(status(&app, &token(number as i64 + 1)).await, 200);
    }
    assert_eq!(status(&app, &Issuer::secret(SECRET).token_of("s", &claims("read:*"))).await, 401);
    // It comes back with another key.
    let other = Issuer::p384();
    server.has(&[other.jwk("b")]);
    until_taken(&app, &other.token_of("b", &claims("read:*"))).await;
    app.stop().await;
}

#[tokio::test]
async fn tokens_of_unknown_keys_cause_few_fetches() {
    let database = TestDatabase::migrated().await;
    let issuer = Issuer::p256();
    let server = JwksServer::start(&[issuer.jwk("a")]).await;
    let url = server.url.clone();
    let app = app_with(&database, |settings| settings.auth.jwks_url = Some(url)).await;
    until_taken(&app, &issuer.token_of("a", &claims("read:*"))).await;
    let before = server.asked();
    for number in 0..50 {
        assert_eq!(status(&app, &issuer.token_of(&format!("x{number}"), &claims("read:*"))).await, 401);
    }
    assert!(server.asked() <= before + 2, "{} fetches", server.asked() - before);
    app.stop().await;
}

#[tokio::test]
async fn a_jwk_is_used_for_what_it_says() {
    let database = TestDatabase::migrated().await;
    let [for_all, to_encrypt, pinned, to_sign] = [Issuer::p256(), Issuer::p256(), Issuer::rsa(), Issuer::ed25519()];
    let with = |issuer: &Issuer, kid: &str, field: &str, value: Value| {
        let mut jwk = issuer.jwk(kid);
        jwk[field] = value;
        jwk
    };
    let server = JwksServer::start(&[
        with(&for_all, "all", "use", json!("sig")),
        with(&to_encrypt, "enc", "use", json!("enc")),
        with(&pinned, "pinned", "alg", json!("RS256")),
        with(&to_sign, "sign", "key_ops", json!(["sign"])),
    ])
    .await;
    let app = app_on(&database, &server).await;
    let claims = claims("read:*");
    until_taken(&app, &for_all.token_of("all", &claims)).await;
    assert_eq!(status(&app, &to_encrypt.token_of("enc", &claims)).await, 401);
    assert_eq!(status(&app, &to_sign.token_of("sign", &claims)).await, 401);
    assert_eq!(status(&app, &pinned.token_of("pinned", &claims)).await, 200);
    assert_eq!(status(&app, &pinned.token_with(&json!({ "alg": "PS256", "kid": "pinned" }), &claims)).await, 401);
    app.stop().await;
}
