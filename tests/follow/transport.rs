//! Event streams over HTTP/2 and TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Version;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::support::app::TestApp;
use crate::support::certificate::PemPair;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::events::Events;
use crate::support::http_client;

/// Passes connections on and counts them.
async fn counting_connections(to: &str) -> (String, Arc<AtomicUsize>) {
    let to: SocketAddr = to.trim_start_matches("http://").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut service = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
            });
        }
    });
    (url, count)
}

#[tokio::test]
async fn fifty_event_streams_share_one_http2_connection() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    http_client(); // installs the provider of TLS
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let (url, connections) = counting_connections(&app.url).await;
    let mut followers = Vec::new();
    for number in 0..50 {
        let answer = client.get(format!("{url}/v1/streams/a-{number}/events")).send().await.unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        let mut events = Events::of(answer).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    for number in 0..50 {
        app.write(&format!("a-{number}"), "Written", json!({ "n": number })).await;
    }
    for (number, events) in followers.iter_mut().enumerate() {
        let message = &events.messages(1).await[0];
        assert_eq!(message["stream_name"], format!("a-{number}"));
    }
    // One that is given up ends alone, and gives its place back.
    let mut watcher = app.service.observer.watch();
    drop(followers.pop());
    TestApp::observed(&mut watcher, "the follower to leave", |what| {
        matches!(what, headwater::domain::observation::Observation::FollowerLeft)
    })
    .await;
    app.write("a-0", "Written", json!({})).await;
    followers[0].next("message").await;
    app.drain();
    for events in &mut followers {
        events.next("closing").await;
    }
    app.stop().await;
}

#[tokio::test]
async fn event_streams_go_over_tls_with_http2_and_http1() {
    let directory = temporary_dir();
    let pair = PemPair::make(directory.path(), "own");
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.tls_certificate = Some(pair.certificate.clone());
        settings.tls_key = Some(pair.key.clone());
    })
    .await;
    assert!(app.url.starts_with("https://"), "{}", app.url);
    for (version, only_http1) in [(Version::HTTP_2, false), (Version::HTTP_11, true)] {
        let builder = pair.client();
        let client = if only_http1 { builder.http1_only() } else { builder }.build().unwrap();
        let answer = client.get(format!("{}/v1/all/events", app.url)).send().await.unwrap();
        assert_eq!(answer.version(), version);
        let mut events = Events::of(answer).await;
        events.next("caught-up").await;
        let body = json!({ "messages": [{ "type": "Written", "data": {} }] });
        let written = client.post(format!("{}/v1/streams/a-1/messages", app.url)).json(&body).send().await.unwrap();
        assert_eq!(written.status(), 201);
        events.next("message").await;
    }
    app.stop().await;
}
