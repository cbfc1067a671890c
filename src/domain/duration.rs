//! Durations as settings and requests write them: `500ms`, `30s`, `5m`, `30d`.

use std::time::Duration;

/// The longest text that is a duration, in bytes.
const TEXT_BYTES_MAX: usize = 100;
/// The most digits of a number in it: humantime panics where a sum goes beyond what a [`Duration`] holds.
const DIGITS_MAX: usize = 15;

/// Reads a duration; `None`: it is none.
pub fn parse(text: &str) -> Option<Duration> {
    let is_short = |digits: &str| digits.len() <= DIGITS_MAX;
    let is_bounded = text.len() <= TEXT_BYTES_MAX && text.split(|c: char| !c.is_ascii_digit()).all(is_short);
    is_bounded.then(|| humantime::parse_duration(text).ok()).flatten()
}

/// Writes a duration in the largest unit of which it is a whole number: what was written as `30d` is `30d` again.
pub fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    if millis == 0 {
        return "0s".into();
    }
    match units.into_iter().find(|(_, length)| millis.is_multiple_of(*length)) {
        Some((unit, length)) => format!("{}{unit}", millis / length),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_for_a_duration_is_none() {
        assert_eq!(parse("1m 30s"), Some(Duration::from_secs(90)));
        for text in ["", "soon", "18446744073709551615s1000ms", "18446744073709551615s", "99999999999999999999d"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"1s ".repeat(1_000)), None);
    }

    #[test]
    fn the_largest_bounded_text_does_not_panic() {
        for unit in ["ns", "us", "ms", "s", "m", "h", "d", "w", "month", "y"] {
            parse(&format!("999999999999999{unit} 999999999999999{unit} 999999999999999ns"));
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for written in ["1ms", "1500ms", "90s", "5m", "36h", "1d", "30d", "400d"] {
            assert_eq!(text(parse(written).unwrap()), written);
        }
        assert_eq!(text(Duration::ZERO), "0s");
    }
}
