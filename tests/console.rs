//! The console: its files come with the binary, whole, compressed and bound to their origin.

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_there() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let page = app.get("/").await;
    assert_eq!((page.status, &page.headers[CONTENT_TYPE]), (200, &"text/html; charset=utf-8".parse().unwrap()));
    let mut open: Vec<String> =
        page.text.split(['"', '\'']).filter(|part| part.starts_with("/console/")).map(str::to_owned).collect();
    assert!(open.len() >= 4, "{open:?}");
    let mut seen = Vec::new();
    while let Some(path) = open.pop() {
        if seen.contains(&path) {
            continue;
        }
        let file = app.get(&path).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.headers[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("default-src 'none'"), "{path}");
        if path.ends_with(".js") {
            assert_eq!(file.headers[CONTENT_TYPE], "text/javascript; charset=utf-8");
            let imported = file.text.lines().filter(|line| line.starts_with("import ") || line.starts_with("} from "));
            let folder = &path[..path.rfind('/').unwrap()];
            for name in imported.filter_map(|line| line.split('\'').nth(1)) {
                let parent = &folder[..folder.rfind('/').unwrap()];
                open.push(match (name.strip_prefix("../"), name.strip_prefix("./")) {
                    (Some(rest), _) => format!("{parent}/{rest}"),
                    (_, Some(rest)) => format!("{folder}/{rest}"),
                    _ => name.to_owned(),
                });
            }
        }
        seen.push(path);
    }
    assert!(seen.len() > 20, "{seen:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_file_is_compressed_for_those_who_take_it_and_not_sent_twice() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let path = format!("{}/console/style.css", app.url);
    let plain = app.http.get(&path).send().await.unwrap();
    let gzip = app.http.get(&path).header(ACCEPT_ENCODING, "gzip, br").send().await.unwrap();
    assert!(plain.headers().get(CONTENT_ENCODING).is_none());
    assert_eq!(gzip.headers()[CONTENT_ENCODING], "gzip");
    assert_ne!(plain.headers()[ETAG], gzip.headers()[ETAG], "they are not the same bytes");
    let tag = plain.headers()[ETAG].clone();
    let (plain, gzip) = (plain.bytes().await.unwrap(), gzip.bytes().await.unwrap());
    assert!(gzip.len() < plain.len());
    let again = app.http.get(&path).header(IF_NONE_MATCH, &tag).send().await.unwrap();
    assert_eq!((again.status().as_u16(), &again.headers()[ETAG]), (304, &tag));
    assert!(again.bytes().await.unwrap().is_empty());
    let other = app.http.get(&path).header(IF_NONE_MATCH, "\"other\"").send().await.unwrap();
    assert_eq!(other.status(), 200);
    app.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_there_is_a_problem() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for path in ["/console/nothing.js", "/console/../Cargo.toml", "/console/%2e%2e/Cargo.toml", "/console/app"] {
        let answer: Answer = app.get(path).await;
        answer.problem(404, "not-found");
    }
    let posted = app.post("/console/style.css", &serde_json::json!({})).await;
    posted.problem(405, "method-not-allowed");
    app.stop().await;
}
