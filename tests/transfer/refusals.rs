//! What an import refuses, with its line, and that nothing of it is written.

use super::{Lines, count, import, imported, line, many, run_with_input, stored};
use crate::support::database::TestDatabase;
use crate::support::sql_writer;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_is_named_and_nothing_of_the_file_is_written() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let good = many(6_000);
    let next = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let last = line("a-1", 6_000, 9_000);
    for (wrong, part) in [
        ("{}\n".to_owned(), "missing field `id`"),
        ("no json\n".into(), "not a message"),
        (last.trim_end().trim_end_matches('}').to_owned() + "\n", "not a message"),
        (last[..90].to_owned(), "cut short"),
        (next(&last, "\"type\"", "\"typ\""), "unknown field `typ`"),
        (next(&last, "{\"n\"", "{\"\\u0000\""), "data must not contain the character U+0000"),
        (next(&last, "a-1", "a-\\u0000"), "stream_name must not contain the character U+0000"),
        (next(&last, "2018-01-01T00", "2018-13-01T00"), "time must be RFC 3339"),
        (next(&last, "\"position\":6000", "\"position\":-1"), "position must be 0 or more"),
        (next(&last, "9000", "1e3"), "not a message"),
        (next(&last, "9000", "5"), "must be higher than 6666"),
        (next(&last, "9000", "99999999999999999999"), "not a message"),
        (last.replace("\"time\"", "\"erased_by\":1,\"time\""), "unknown field `erased_by`"),
    ] {
        let (code, out, error) = import(&database.url, &Lines::of(&(good.clone() + &wrong)).path, &[]).await;
        assert!(code == 1 && out.is_empty(), "{wrong}: {error}");
        assert!(error.contains("line 6001: ") && error.contains(part), "{part}: {error}");
        assert_eq!(count(&sql).await, 0, "{part}");
    }
}

/// What only the database can find is found in the first pass where it can be, and otherwise nothing of its batch is
/// written.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_refuses_is_named_too() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let good = many(100);
    let next = line("a-1", 6_000, 9_000);
    let long = "x".repeat(100_000);
    let incompressible: String = (0..4_000).map(|_| fastrand::alphanumeric()).collect();
    for (wrong, part) in [
        (next.replace("\"n\": 9000", "\"n\": 1e200000"), "the database refuses the message"),
        (next.replace("a-1", &incompressible), "the database refuses the message"),
        (next.replace("00002328", "00000001"), "is that of a message before it"),
        (next.replace("\"position\":6000", "\"position\":3"), "position 3 of stream a-1 is not free"),
    ] {
        for more in [&[][..], &["--append"]] {
            let lines = format!("{good}{wrong}{}", line("c-1", 0, 9_001).replace("Imported", &long));
            let (code, _, error) = import(&database.url, &Lines::of(&lines).path, more).await;
            assert!(code == 1 && error.contains("line 101: ") && error.contains(part), "{more:?} {part}: {error}");
            assert_eq!(count(&sql).await, 0, "{part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_store_keeps_what_it_has() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql_writer::write(&sql, "a-0", "{}").await;
    let before = stored(&sql).await;
    let sequence = "SELECT last_value FROM message_store.messages_global_position_seq";
    let given: i64 = sql.query_one(sequence, &[]).await.unwrap().get(0);
    let file = Lines::of(&many(100));
    for (more, parts) in [
        (&[][..], ["line 1: the store has another message at global position 1", "--append"]),
        (&["--check"], ["line 1: the store has another message at global position 1", "--append"]),
        (&["--append"], ["line 1: position 0 of stream a-0 is not free", "its version is 0"]),
    ] {
        let (code, _, error) = import(&database.url, &file.path, more).await;
        assert!(code == 1 && parts.iter().all(|part| error.contains(part)), "{more:?}: {error}");
        assert_eq!(stored(&sql).await, before);
        assert_eq!(sql.query_one(sequence, &[]).await.unwrap().get::<_, i64>(0), given);
    }
    // The file begins after what the store has: kept positions would put its messages behind others.
    let later = Lines::of(&line("z-1", 0, 50));
    let (code, _, error) = import(&database.url, &later.path, &[]).await;
    assert!(code == 1 && error.contains("line 1: the store has another message at global position 1"), "{error}");
    assert_eq!(stored(&sql).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_written_to_meanwhile_is_not_gone_on_with() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let whole = many(200);
    let half: String = whole.lines().take(100).map(|line| format!("{line}\n")).collect();
    imported(&database.url, &Lines::of(&half).path, &[]).await;
    let own = sql_writer::write(&sql, "own-1", "{}").await;
    let (code, _, error) = import(&database.url, &Lines::of(&whole).path, &[]).await;
    assert!(code == 1 && error.contains("line 101: the store has another message"), "{error}");
    assert_eq!(count(&sql).await, 101);
    // All of the file is there, and more: nothing is left to do.
    imported(&database.url, &Lines::of(&half).path, &[]).await;
    imported(&database.url, &Lines::of(&whole).path, &["--append"]).await;
    assert_eq!(count(&sql).await, 201);
    assert!(sql_writer::standing(&sql, "true").await.last().unwrap() > &own);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_something_else_is_refused() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    imported(&database.url, &Lines::of(&line("a-1", 0, 1)).path, &[]).await;
    for other in [line("a-2", 0, 1), line("a-1", 1, 1), line("a-1", 0, 1).replace("Imported", "Other")] {
        let lines = line("c-1", 0, 1).replace("0001\"", "0009\"")
            + &other.replace("global_position\":1,", "global_position\":2,");
        let (code, _, error) = import(&database.url, &Lines::of(&lines).path, &["--append"]).await;
        assert!(code == 1 && error.contains("line 2: the id ") && error.contains("position 0 of a-1"), "{error}");
        assert_eq!(count(&sql).await, 1);
    }
}

/// Standard input can be read once only: what was whole before the wrong line stays, batch by batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_of_a_pipe_stops_at_its_batch() {
    let database = TestDatabase::migrated().await;
    let lines = many(12_000) + "{\"id\":";
    let (code, _, error) = run_with_input(&database.url, &["import"], lines).await;
    assert!(code == 1 && error.contains("line 12001: cut short"), "{error}");
    assert_eq!(count(&database.connect().await).await, 10_000);
    let (code, _, error) = run_with_input(&database.url, &["import"], many(12_000)).await;
    assert_eq!((code, error.as_str()), (0, "2,000 messages imported, 10,000 were there already\n"));
    let (code, _, error) = run_with_input(&database.url, &["import"], String::new()).await;
    assert_eq!((code, error.as_str()), (0, "0 messages imported, 0 were there already\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_said_before_all_else() {
    for name in ["/no/such/file", "/"] {
        let (code, _, error) =
            import("postgres://127.0.0.1:1/x", std::path::Path::new(name), &["--database-wait", "0s"]).await;
        assert!(code == 1 && error.contains(&format!("{name} cannot be read")), "{error}");
    }
}

/// The whole file is judged before the first message is written, over all of its batches.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_end_of_a_file_has_wrong_with_its_beginning_is_found_by_the_check() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let good = many(6_000);
    let next = line("c-1", 6_000, 9_000);
    for (wrong, part) in [
        (next.replace("000000002328", "000000000001"), "the id 00000000-0000-0000-0000-000000000001 is that of"),
        (next.replace("c-1", "a-0").replace(":6000", ":3"), "position 3 of stream a-0 is not free"),
        (next.replace("9000,", "9223372036854775807,"), "global_position must be at most"),
    ] {
        let file = Lines::of(&(good.clone() + &wrong));
        for more in [&["--check"][..], &["--check", "--append"], &[], &["--append"]] {
            let (code, _, error) = import(&database.url, &file.path, more).await;
            assert!(code == 1 && error.contains("line 6001: ") && error.contains(part), "{more:?} {part}: {error}");
            assert_eq!(count(&sql).await, 0, "{more:?} {part}");
        }
    }
}
