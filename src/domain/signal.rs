//! What instances and SQL functions tell each other on one channel of notifications. Nothing depends on their arrival:
//! they only save waiting for the next poll.

/// A notification that something has changed. What has changed is read from the tables, never from the signal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Signal {
    /// There are messages up to this global position. `write_message` sends the number alone.
    Appended(i64),
    /// Messages were erased.
    Erased,
    /// API keys were made or revoked.
    Keys,
    /// Aggregated streams have new messages, or have come further.
    Projected,
    /// An aggregated stream was defined or deleted, or its state has changed.
    Defined,
    /// These subscriptions, or what their consumers hold, have changed.
    Changed(Vec<i64>),
    /// Consumers of these subscriptions may have credit again.
    Room(Vec<i64>),
}

impl Signal {
    /// The most ids in one signal: PostgreSQL takes payloads of less than 8,000 bytes.
    pub const IDS_MAX: usize = 300;

    /// The payload of the notification.
    pub fn encode(&self) -> String {
        match self {
            Signal::Appended(global_position) => global_position.to_string(),
            Signal::Erased => "erased".into(),
            Signal::Keys => "keys".into(),
            Signal::Projected => "projected".into(),
            Signal::Defined => "defined".into(),
            Signal::Changed(ids) => format!("changed {}", list(ids)),
            Signal::Room(ids) => format!("room {}", list(ids)),
        }
    }

    /// Reads a payload. `None`: this version does not know it, so anything may have changed.
    pub fn decode(payload: &str) -> Option<Self> {
        match payload.split_once(' ') {
            None if payload == "erased" => Some(Signal::Erased),
            None if payload == "keys" => Some(Signal::Keys),
            None if payload == "projected" => Some(Signal::Projected),
            None if payload == "defined" => Some(Signal::Defined),
            None => payload.parse().ok().map(Signal::Appended),
            Some(("changed", ids)) => read_list(ids).map(Signal::Changed),
            Some(("room", ids)) => read_list(ids).map(Signal::Room),
            Some(_) => None,
        }
    }
}

fn list(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

fn read_list(text: &str) -> Option<Vec<i64>> {
    text.split(',').map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_signal() -> impl Strategy<Value = Signal> {
        let ids = || vec(any::<i64>(), 1..Signal::IDS_MAX);
        prop_oneof![
            any::<i64>().prop_map(Signal::Appended),
            Just(Signal::Erased),
            Just(Signal::Keys),
            Just(Signal::Projected),
            Just(Signal::Defined),
            ids().prop_map(Signal::Changed),
            ids().prop_map(Signal::Room),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_heard_and_fits(signal in any_signal()) {
            let payload = signal.encode();
            prop_assert!(payload.len() < 8_000, "{} bytes", payload.len());
            prop_assert_eq!(Signal::decode(&payload), Some(signal));
        }

        #[test]
        fn what_is_heard_says_one_thing(payload in "(erased|keys|projected|defined|changed|room)?[ ,0-9a-z-]{0,20}") {
            if let Some(signal) = Signal::decode(&payload) {
                prop_assert_eq!(Signal::decode(&signal.encode()), Some(signal));
            }
        }
    }

    #[test]
    fn sql_speaks_the_same_language() {
        assert_eq!(Signal::decode("1017"), Some(Signal::Appended(1017)));
        assert_eq!(Signal::decode("defined"), Some(Signal::Defined));
        assert_eq!(Signal::decode("changed 7"), Some(Signal::Changed(vec![7])));
        assert_eq!(Signal::decode("room 7"), Some(Signal::Room(vec![7])));
        for unknown in ["", "room", "room ", "changed 7,x", "else 7"] {
            assert_eq!(Signal::decode(unknown), None, "{unknown:?}");
        }
    }
}
