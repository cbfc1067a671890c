//! The checker is worth what it finds: histories that are wrong in one way each, and one that is right.

use uuid::Uuid;

use super::checker::violations;
use super::history::{Ack, AckTold, Append, Delivery, Follower, History, Message, Read, Span, Told};

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn message(number: i64, stream: &str, position: i64) -> Message {
    Message { id: id(number as u128), stream: stream.into(), position, global_position: number }
}

fn append(number: i64, stream: &str, position: i64, began: u64, ended: u64) -> Append {
    Append {
        id: id(number as u128),
        stream: stream.into(),
        expected: Some(position - 1),
        span: Span { began, ended },
        told: Told::Written { position, global_position: number },
    }
}

fn read(version: i64, began: u64, ended: u64) -> Read {
    Read { stream: "a-1".into(), version, span: Span { began, ended } }
}

fn delivery(consumer: &str, epoch: i64, number: i64, at: u64) -> Delivery {
    Delivery {
        consumer: consumer.into(),
        partition: 0,
        position: number,
        epoch,
        message: message(number, "a-1", number - 1),
        at,
    }
}

fn ack(epoch: i64, position: i64, began: u64, told: AckTold) -> Ack {
    Ack { partition: 0, position, epoch, span: Span { began, ended: began + 1 }, told }
}

/// Three messages of one stream, written one after the other, with all who read, follow and consume them.
fn right() -> History {
    let log: Vec<Message> = (1..4).map(|number| message(number, "a-1", number - 1)).collect();
    let mut history = History {
        appends: vec![append(1, "a-1", 0, 0, 10), append(2, "a-1", 1, 20, 30), append(3, "a-1", 2, 40, 50)],
        reads: vec![read(-1, 0, 5), read(0, 12, 15), read(1, 25, 45), read(2, 55, 60)],
        followers: vec![Follower { messages: log.clone() }],
        log,
        ..History::default()
    };
    history.acked.deliveries = vec![
        delivery("w1", 1, 1, 60),
        delivery("w1", 1, 2, 61),
        // The first ack was lost, and the consumer with it.
        delivery("w2", 2, 2, 80),
        delivery("w2", 2, 3, 81),
    ];
    history.acked.acks = vec![
        ack(1, 1, 65, AckTold::Acked),
        ack(1, 2, 70, AckTold::Unknown),
        ack(2, 3, 90, AckTold::Acked),
        ack(1, 2, 91, AckTold::Refused),
    ];
    history.made.deliveries = (1..4).map(|number| delivery("m1", 1, number, 100)).collect();
    for number in 1..4 {
        let made = Message {
            id: id(100 + number),
            stream: "b-1".into(),
            position: number as i64 - 1,
            global_position: 100 + number as i64,
        };
        history.made_of.push((made.id, id(number)));
        history.log.push(made.clone());
        history.followers[0].messages.push(made);
    }
    history
}

#[track_caller]
fn is_wrong(change: impl FnOnce(&mut History), because: &str) {
    let mut history = right();
    change(&mut history);
    let found = violations(&history);
    assert!(found.iter().any(|text| text.contains(because)), "{because:?} is not found, but {found:?}");
}

#[test]
fn a_history_that_keeps_all_promises_is_right() {
    assert_eq!(violations(&right()), Vec::<String>::new());
}

#[test]
fn answers_that_never_came_may_mean_either() {
    let mut history = right();
    // It was written all the same, and is found out by sending it again.
    history.appends[1].told = Told::Unknown;
    history.appends.push(append(2, "a-1", 1, 32, 38));
    let lost = Append { id: id(77), told: Told::Unknown, ..append(9, "a-1", 9, 0, 100) };
    history.appends.push(lost);
    assert_eq!(violations(&history), Vec::<String>::new());
}

#[test]
fn requests_at_the_same_time_may_go_in_any_order() {
    let mut history = right();
    for append in &mut history.appends {
        append.span = Span { began: 0, ended: 100 };
    }
    history.reads = vec![read(2, 10, 20), read(2, 30, 40)];
    assert_eq!(violations(&history), Vec::<String>::new());
}

#[test]
fn what_was_acknowledged_must_be_in_the_log_once() {
    is_wrong(|history| drop(history.log.remove(1)), "acknowledged as");
    is_wrong(|history| history.log[5].id = id(1), "twice");
    is_wrong(|history| history.appends[2].told = Told::Written { position: 2, global_position: 9 }, "acknowledged as");
    is_wrong(|history| history.appends[2].told = Told::NotWritten, "answered as not written");
    is_wrong(|history| history.appends[2].told = Told::WrongVersion { current: 1 }, "answered as not written");
    is_wrong(|history| drop(history.appends.pop()), "nobody sent");
}

#[test]
fn positions_must_be_in_the_order_of_the_log() {
    is_wrong(|history| history.log.swap(0, 1), "does not come after");
    is_wrong(|history| history.log[2].position = 3, "another position");
}

#[test]
fn versions_must_be_those_of_one_register() {
    is_wrong(|history| history.appends[2].expected = Some(0), "another version than was expected");
    is_wrong(|history| history.reads.push(read(0, 31, 35)), "acknowledged before");
    is_wrong(|history| history.reads.push(read(1, 12, 15)), "when that was not its version");
    is_wrong(|history| history.reads.push(read(2, 0, 39)), "when that was not its version");
    is_wrong(|history| history.reads.push(read(3, 60, 70)), "the log ends at 2");
    // A stale read, though what comes after it is still on its way.
    is_wrong(|history| history.reads.push(read(-1, 11, 19)), "acknowledged before");
    // The answers of two writes came in the other order than they stand in.
    is_wrong(
        |history| {
            history.appends[1].span = Span { began: 60, ended: 70 };
            history.reads.clear();
        },
        "acknowledged before",
    );
    let refused = |current, began, ended| Append {
        id: id(50),
        told: Told::WrongVersion { current },
        expected: Some(0),
        ..append(50, "a-1", 9, began, ended)
    };
    is_wrong(|history| history.appends.push(refused(0, 12, 15)), "as expected");
    is_wrong(|history| history.appends.push(refused(2, 12, 15)), "when that was not its version");
}

#[test]
fn followers_must_get_each_message_once_and_in_order() {
    is_wrong(|history| drop(history.followers[0].messages.remove(1)), "in place of");
    is_wrong(|history| drop(history.followers[0].messages.pop()), "got 5 messages");
    is_wrong(|history| history.followers[0].messages.swap(1, 2), "in place of");
    is_wrong(
        |history| {
            let again = history.followers[0].messages[0].clone();
            history.followers[0].messages.insert(1, again);
        },
        "in place of",
    );
}

#[test]
fn an_epoch_has_one_holder_and_an_order() {
    is_wrong(|history| history.acked.deliveries[1].consumer = "w9".into(), "holds the epoch");
    is_wrong(|history| history.acked.deliveries[3] = delivery("w2", 2, 2, 81), "comes Some(3)");
    is_wrong(|history| drop(history.made.deliveries.remove(1)), "after 1 comes Some(2)");
    is_wrong(|history| drop(history.acked.deliveries.pop()), "never came");
    is_wrong(|history| history.acked.deliveries[3].partition = 1, "in partition 0");
}

#[test]
fn an_old_epoch_must_move_nothing() {
    is_wrong(|history| history.acked.acks.push(ack(1, 2, 85, AckTold::Acked)), "had delivered before");
    is_wrong(|history| history.acked.acks.push(ack(1, 2, 70, AckTold::Acked)), "came after it was acked");
}

#[test]
fn something_is_made_of_each_message_exactly_once() {
    is_wrong(|history| history.made_of[1].1 = id(1), "was made 2 times");
    is_wrong(|history| history.made_of[1].1 = id(1), "was made 0 times");
    is_wrong(|history| history.made_of[2].1 = id(66), "which never came");
}
