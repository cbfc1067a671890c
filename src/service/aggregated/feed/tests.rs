//! What followers are given of what is known here, and when they have to ask the database.

use super::*;
use crate::domain::message::{Message, MessageParts};
use crate::store::aggregated_streams::Progress;

/// The aggregated stream, and its projection.
const ID: i64 = 1;
const PROJECTION: i64 = 7;

fn feeds() -> Feeds {
    Feeds::new(1 << 20)
}

fn at(global_position: i64) -> AggregatedMessage {
    let message = Message::new(MessageParts { global_position, ..MessageParts::EXAMPLE });
    AggregatedMessage { partition: 0, position: global_position, keys: None, message: Arc::new(message) }
}

fn live() -> HashSet<i64> {
    HashSet::from([ID])
}

/// A round that PostgreSQL has answered.
fn round(feeds: &Feeds, up_to: i64, positions: &[i64]) {
    feeds.wrote(0, up_to);
    let messages = positions.iter().copied().map(at).collect();
    feeds.projected(0, up_to, HashMap::from([(ID, messages)]), &HashMap::new());
}

fn page(projected_position: i64) -> AggregatedPage {
    AggregatedPage {
        history_number: 0,
        projection_id: PROJECTION,
        projected_position,
        is_catching_up: false,
        more_after: None,
        messages: Vec::new(),
    }
}

fn progress(projected_position: i64, is_catching_up: bool) -> Progress {
    Progress {
        aggregated_stream_id: ID,
        projection_id: PROJECTION,
        projected_position,
        is_catching_up,
        is_keyed: false,
    }
}

/// The positions after a place, and up to where these are all; `None`: the database has to be asked.
fn newest(feeds: &Feeds, after: i64) -> Option<(Vec<i64>, i64)> {
    let limit = PageLimit { messages: 100, bytes: 1 << 20 };
    match feeds.newest((ID, &"numbers".into()), &Part::All, Place::global(after, 0), limit) {
        Read::Page(page) => Some((page.entries.iter().map(Entry::global_position).collect(), page.up_to)),
        _ => None,
    }
}

#[test]
fn progress_without_a_message_is_known_before_it_is_written() {
    let feeds = feeds();
    let _member = feeds.join(ID);
    feeds.lead(0, live(), 190, 190);
    feeds.projected(0, 210, HashMap::new(), &HashMap::new());
    let known = feeds.known(ID);
    assert_eq!(known.or(190), 210);
    feeds.saw(0, ID, known, &page(190));
    assert_eq!(newest(&feeds, 190), Some((vec![], 210)));
}

#[test]
fn a_round_that_postgresql_has_lost_is_new_to_who_was_not_told() {
    let feeds = feeds();
    let _member = feeds.join(ID);
    feeds.lead(0, live(), 190, 190);
    round(&feeds, 210, &[210]);
    feeds.projected(0, 215, HashMap::new(), &HashMap::new());
    // Somebody comes after the server was killed, before the projector has found that out.
    let known = feeds.known(ID);
    assert_eq!(known.or(190), 190, "what the page does not have was not seen");
    feeds.saw(0, ID, known, &page(190));
    assert_eq!(newest(&feeds, 190), Some((vec![], 190)), "and is not asked for again and again");
    feeds.projected(0, 216, HashMap::new(), &HashMap::new());
    assert_eq!(newest(&feeds, 190), Some((vec![], 190)), "what the projector has in memory says nothing now");
    feeds.resign();
    feeds.lead(0, live(), 190, 190);
    round(&feeds, 217, &[210, 217]);
    assert_eq!(newest(&feeds, 190), Some((vec![210, 217], 217)));
    assert_eq!(newest(&feeds, 215), Some((vec![217], 217)));
}

#[test]
fn a_projector_that_begins_before_what_was_told_tells_it_again() {
    let feeds = feeds();
    let _member = feeds.join(ID);
    feeds.lead(0, live(), 190, 190);
    round(&feeds, 210, &[210]);
    feeds.resign();
    feeds.lead(0, live(), 190, 190);
    assert_eq!(feeds.known(ID).or(190), 190);
    round(&feeds, 211, &[210]);
    assert_eq!(newest(&feeds, 190), Some((vec![210], 211)));
}

#[test]
fn a_page_from_before_the_projector_s_answer_is_made_up_for() {
    let feeds = feeds();
    let mut member = feeds.join(ID);
    feeds.lead(0, live(), 190, 190);
    round(&feeds, 210, &[210]);
    let asked = feeds.known(ID);
    feeds.resign();
    feeds.lead(0, live(), 190, 190);
    round(&feeds, 217, &[210]);
    feeds.saw(0, ID, asked, &page(190));
    member.newest.mark_unchanged();
    feeds.wrote(0, 217);
    assert!(member.newest.has_changed().unwrap());
    assert_eq!(newest(&feeds, 190), None, "it is read in the database");
    assert_eq!(newest(&feeds, 217), Some((vec![], 217)));
}

#[test]
fn elsewhere_a_round_that_postgresql_has_lost_is_found_by_a_page_or_a_look() {
    for is_page in [true, false] {
        let feeds = feeds();
        let _member = feeds.join(ID);
        feeds.on_progress(0, &progress(190, false));
        feeds.on_page(0, ID, 190, Some(AggregatedPage { messages: vec![at(210)], ..page(210) }), 0);
        assert_eq!(newest(&feeds, 190), Some((vec![210], 210)));
        let known = feeds.known(ID);
        assert_eq!(known.or(190), 190);
        match is_page {
            true => feeds.saw(0, ID, known, &page(190)),
            false => assert_eq!(feeds.on_progress(0, &progress(190, false)), None),
        }
        assert_eq!(newest(&feeds, 190), Some((vec![], 190)));
        assert_eq!(feeds.on_progress(0, &progress(216, false)), Some(190), "what was lost is read again");
    }
}

#[test]
fn who_waits_at_the_end_is_not_sent_to_the_database_by_an_erasure_beyond_it() {
    let feeds = feeds();
    let _member = feeds.join(ID);
    feeds.on_progress(0, &progress(400, false));
    feeds.erase(&[700]);
    assert_eq!(newest(&feeds, 400), Some((vec![], 400)));
    let page = AggregatedPage { messages: vec![at(650), at(700), at(710)], ..page(710) };
    feeds.on_page(0, ID, 400, Some(page), 0);
    assert_eq!(newest(&feeds, 400), None, "it may have been read before it was erased");
    assert_eq!(newest(&feeds, 700), Some((vec![710], 710)));
}

#[test]
fn who_waits_where_history_ended_is_woken_when_it_goes_live_elsewhere() {
    for is_page in [true, false] {
        let feeds = feeds();
        let mut member = feeds.join(ID);
        feeds.on_progress(0, &progress(100, true));
        member.newest.mark_unchanged();
        let known = feeds.known(ID);
        match is_page {
            true => feeds.saw(0, ID, known, &page(120)),
            false => assert_eq!(feeds.on_progress(0, &progress(120, false)), None),
        }
        assert!(member.newest.has_changed().unwrap());
        assert_eq!(newest(&feeds, 100), None, "it reads what is left of history");
    }
}

#[test]
fn what_could_not_be_read_for_all_is_read_by_each() {
    let feeds = feeds();
    let mut member = feeds.join(ID);
    feeds.on_progress(0, &progress(100, false));
    let look = progress(120, false);
    assert_eq!(feeds.on_progress(0, &look), Some(100));
    member.newest.mark_unchanged();
    feeds.on_failed_page(0, &look);
    assert!(member.newest.has_changed().unwrap());
    assert_eq!(newest(&feeds, 100), None);
    assert_eq!(feeds.on_progress(0, &progress(121, false)), Some(120), "the next look goes on after it");
}
