//! write_message: which writers wait for each other.
use super::{Session, Store, unique, within};
use uuid::Uuid;

/// Returns once a session waits for an advisory lock. Each look is a round trip, so it does not spin.
async fn until_it_waits(observer: &Session, process_id: &str) {
    let sql =
        format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = {process_id}");
    within(async {
        while observer.value(&sql).await == "0" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn writers_of_one_category_wait_for_each_other_until_commit() {
    let store = Store::open().await;
    let category = unique("wait");
    let second = store.another_session().await;
    let process_id = second.process_id().await;

    store.run("BEGIN").await;
    store.write(&format!("{category}-1")).await;
    let other_stream = format!("{category}-2");
    let waiting = tokio::spawn(async move { second.write(&other_stream).await });
    until_it_waits(&store, &process_id).await;
    assert!(!waiting.is_finished());

    store.run("COMMIT").await;
    assert_eq!(within(waiting).await.unwrap(), "0");
}

#[tokio::test]
async fn one_who_waited_sees_the_committed_version() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("wait"));
    let second = store.another_session().await;
    let process_id = second.process_id().await;

    store.run("BEGIN").await;
    store.write(&stream).await;
    let waiting = tokio::spawn({
        let stream = stream.clone();
        async move { second.write(&stream).await }
    });
    until_it_waits(&store, &process_id).await;
    store.run("COMMIT").await;

    assert_eq!(within(waiting).await.unwrap(), "1");
}

#[tokio::test]
async fn one_who_waited_with_an_expected_version_is_refused_by_the_committed_one() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("wait"));
    let second = store.another_session().await;
    let process_id = second.process_id().await;

    store.run("BEGIN").await;
    store.write(&stream).await;
    let waiting = tokio::spawn({
        let sql = format!("SELECT write_message('{}', '{stream}', 'T', '{{}}', NULL, -1)", Uuid::new_v4());
        async move { second.refusal(&sql).await }
    });
    until_it_waits(&store, &process_id).await;
    store.run("COMMIT").await;

    let message = format!("Wrong expected version: -1 (Stream: {stream}, Stream Version: 0)");
    assert_eq!(within(waiting).await.unwrap().message, message);
}

#[tokio::test]
async fn one_who_waited_sees_nothing_of_what_was_rolled_back() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("wait"));
    let second = store.another_session().await;
    let process_id = second.process_id().await;

    store.run("BEGIN").await;
    store.write(&stream).await;
    let waiting = tokio::spawn({
        let stream = stream.clone();
        async move { second.write(&stream).await }
    });
    until_it_waits(&store, &process_id).await;
    store.run("ROLLBACK").await;

    assert_eq!(within(waiting).await.unwrap(), "0");
}

#[tokio::test]
async fn writers_of_other_categories_do_not_wait() {
    let store = Store::open().await;
    let second = store.another_session().await;
    store.run("BEGIN").await;
    store.write(&format!("{}-1", unique("wait"))).await;
    assert_eq!(second.write(&format!("{}-1", unique("wait"))).await, "0");
    store.run("ROLLBACK").await;
}

#[tokio::test]
async fn readers_never_wait_and_see_only_what_is_committed() {
    let store = Store::open().await;
    let category = unique("wait");
    let reader = store.another_session().await;
    store.write(&format!("{category}-1")).await;
    store.run("BEGIN").await;
    store.write(&format!("{category}-1")).await;

    for read in [
        format!("SELECT position FROM get_stream_messages('{category}-1')"),
        format!("SELECT position FROM get_category_messages('{category}')"),
        format!("SELECT position FROM get_last_stream_message('{category}-1')"),
        format!("SELECT stream_version('{category}-1')"),
    ] {
        assert_eq!(reader.column(&read).await, ["0"], "{read}");
    }
    store.run("COMMIT").await;
}

#[tokio::test]
async fn many_writers_of_one_stream_leave_no_hole_in_its_positions() {
    const WRITERS: usize = 6;
    const MESSAGES: usize = 10;
    let store = Store::open().await;
    let stream = format!("{}-1", unique("wait"));
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (session, stream) = (store.another_session().await, stream.clone());
        writers.push(tokio::spawn(async move {
            for _ in 0..MESSAGES {
                session.write(&stream).await;
            }
        }));
    }
    for writer in writers {
        within(writer).await.unwrap();
    }
    let positions =
        store.column(&format!("SELECT position FROM messages WHERE stream_name = '{stream}' ORDER BY position")).await;
    let expected: Vec<_> = (0..WRITERS * MESSAGES).map(|position| position.to_string()).collect();
    assert_eq!(positions, expected);
}
