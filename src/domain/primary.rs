//! Which of several servers is the one to write to, by what each of them answers.

/// A server, and how far its history is forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The system identifier: a replica has that of its primary.
    pub system: String,
    /// Each promotion gives a new timeline, with a higher number.
    pub timeline: i64,
    /// When it was started.
    pub started: String,
}

/// What a server answers when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It takes writes. `None`: it does not tell which server it is.
    Primary(Option<Identity>),
    /// It takes none, because it is a replica or was made read-only.
    ReadOnly(&'static str),
    /// It does not answer, or refuses the connection.
    Silent(String),
}

/// Which server is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its number among those that were asked.
    pub at: usize,
    /// Another server takes writes too: what is written there is not in this log.
    pub other: Option<usize>,
}

/// The server in use: its number, and which one it was when it was found.
#[derive(Debug, Clone, Copy)]
pub struct InUse<'a> {
    /// Its number among those that are asked.
    pub at: usize,
    /// As it answered then.
    pub identity: Option<&'a Identity>,
    /// Something on it has failed since.
    pub is_doubted: bool,
}

/// Chooses among servers in the order in which they were named. `newest`: the newest identity that was ever used here. A
/// server of the same system with an older timeline is a primary that has come back, and is not written to any more.
///
/// The error says of each server why it is none.
pub fn choose(
    answers: &[(String, Answer)],
    in_use: Option<InUse<'_>>,
    newest: Option<&Identity>,
) -> Result<Choice, String> {
    let is_old = |identity: &Identity| {
        newest.is_some_and(|newest| newest.system == identity.system && identity.timeline < newest.timeline)
    };
    let mut found: Vec<(usize, Option<&Identity>)> = Vec::new();
    let mut reasons = Vec::new();
    for (at, (name, answer)) in answers.iter().enumerate() {
        match answer {
            Answer::Primary(Some(identity)) if is_old(identity) => {
                reasons.push(format!("{name} is a primary of timeline {}, which has been left", identity.timeline));
            }
            Answer::Primary(identity) => found.push((at, identity.as_ref())),
            Answer::ReadOnly(why) => reasons.push(format!("{name} {why}")),
            Answer::Silent(why) => reasons.push(format!("{name} does not answer ({why})")),
        }
    }
    let used = in_use.map(|used| used.at);
    // The newest timeline, then the one in use, then the one named first.
    let best = found.iter().max_by_key(|(at, identity)| {
        let is_known = newest.is_none_or(|newest| identity.is_none_or(|identity| identity.system == newest.system));
        (is_known, identity.map_or(0, |identity| identity.timeline), Some(*at) == used, std::cmp::Reverse(*at))
    });
    let Some(&(at, identity)) = best else { return Err(reasons.join("; ")) };
    let other = found.iter().find(|(_, other)| *other != identity || identity.is_none() && found.len() > 1);
    let choice = Choice { at, other: other.map(|(at, _)| *at).filter(|other| *other != at) };
    match in_use {
        // It did not answer in time, and nothing has failed on it: a server that is no newer does not take its place.
        Some(used) if !used.is_doubted && is_silent(answers, used.at) && is_no_newer(identity, used.identity) => {
            Ok(Choice { at: used.at, other: None })
        }
        _ => Ok(choice),
    }
}

fn is_silent(answers: &[(String, Answer)], at: usize) -> bool {
    answers.get(at).is_none_or(|(_, answer)| matches!(answer, Answer::Silent(_)))
}

fn is_no_newer(found: Option<&Identity>, used: Option<&Identity>) -> bool {
    match (found, used) {
        (Some(found), Some(used)) => found.system == used.system && found.timeline <= used.timeline,
        (None, _) | (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(timeline: i64, started: &str) -> Identity {
        Identity { system: "s".into(), timeline, started: started.into() }
    }

    fn primary(timeline: i64) -> Answer {
        Answer::Primary(Some(identity(timeline, &format!("of {timeline}"))))
    }

    fn silent() -> Answer {
        Answer::Silent("time-out".into())
    }

    const REPLICA: Answer = Answer::ReadOnly("is a replica");

    fn chosen(answers: &[Answer], used: Option<(usize, i64, bool)>) -> Result<(usize, Option<usize>), String> {
        let named: Vec<_> = answers.iter().cloned().zip('a'..).map(|(answer, name)| (name.into(), answer)).collect();
        let newest = used.map(|(_, timeline, _)| identity(timeline, &format!("of {timeline}")));
        let in_use = used.map(|(at, _, is_doubted)| InUse { at, identity: newest.as_ref(), is_doubted });
        choose(&named, in_use, newest.as_ref()).map(|choice| (choice.at, choice.other))
    }

    #[test]
    fn the_one_that_takes_writes_is_chosen() {
        assert_eq!(chosen(&[silent(), REPLICA, primary(1)], None), Ok((2, None)));
        assert_eq!(chosen(&[Answer::Primary(None), REPLICA], None), Ok((0, None)));
        let refused = chosen(&[silent(), REPLICA], None).unwrap_err();
        assert_eq!(refused, "a does not answer (time-out); b is a replica");
    }

    #[test]
    fn of_several_that_take_writes_the_one_that_was_promoted_last_is_chosen_and_the_other_is_told_of() {
        assert_eq!(chosen(&[primary(1), primary(2)], None), Ok((1, Some(0))));
        assert_eq!(chosen(&[primary(2), primary(1)], None), Ok((0, Some(1))));
        // The one in use, although it answers.
        assert_eq!(chosen(&[primary(1), primary(2)], Some((0, 1, false))), Ok((1, Some(0))));
    }

    #[test]
    fn two_names_of_one_server_are_one_server() {
        assert_eq!(chosen(&[primary(1), primary(1)], None), Ok((0, None)));
        assert_eq!(chosen(&[primary(1), primary(1)], Some((1, 1, false))), Ok((1, None)));
    }

    #[test]
    fn a_primary_that_was_left_is_not_used_again() {
        assert!(chosen(&[primary(1), REPLICA], Some((1, 2, true))).unwrap_err().contains("timeline 1"));
        assert_eq!(chosen(&[primary(1), primary(2)], Some((1, 2, true))), Ok((1, None)));
    }

    #[test]
    fn a_server_of_another_system_is_used_if_no_other_takes_writes() {
        let other = Answer::Primary(Some(Identity { system: "t".into(), timeline: 9, started: "then".into() }));
        assert_eq!(chosen(&[other.clone(), primary(1)], Some((1, 1, false))), Ok((1, Some(0))));
        assert_eq!(chosen(&[other, silent()], Some((1, 1, true))), Ok((0, None)));
    }

    #[test]
    fn one_that_is_slow_to_answer_is_kept_unless_another_was_promoted() {
        assert_eq!(chosen(&[silent(), primary(1)], Some((0, 1, false))), Ok((0, None)));
        assert_eq!(chosen(&[silent(), primary(1)], Some((0, 1, true))), Ok((1, None)));
        assert_eq!(chosen(&[silent(), primary(2)], Some((0, 1, false))), Ok((1, None)));
        assert_eq!(chosen(&[REPLICA, primary(1)], Some((0, 1, false))), Ok((1, None)));
    }
}
