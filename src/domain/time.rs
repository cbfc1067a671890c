//! Times as PostgreSQL keeps them and as the wire shows them: UTC with microseconds.

use chrono::{DateTime, Datelike, NaiveDateTime, TimeZone, Timelike, Utc};

/// Microseconds between the Unix epoch and PostgreSQL's (2000-01-01).
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The years of RFC 3339: from the beginning of 0001 to the end of 9999.
const FIRST: i64 = -62_135_596_800_000_000;
const LAST: i64 = 253_402_300_799_999_999;

/// A point in time in UTC, in microseconds since the Unix epoch. PostgreSQL's `infinity` is the largest value, so that
/// every row can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// By the clock of this machine.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros())
    }

    /// So long after now; the last time there is, if that is beyond it.
    pub fn after(duration: std::time::Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(Self::now().0.saturating_add(micros).min(LAST))
    }

    /// From PostgreSQL's binary form: microseconds since 2000-01-01.
    pub fn from_postgres(micros: i64) -> Self {
        Self(micros.saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// To PostgreSQL's binary form: microseconds since 2000-01-01.
    pub fn to_postgres(self) -> i64 {
        // The largest value is `infinity` in both.
        if self.0 == i64::MAX { i64::MAX } else { self.0.saturating_sub(POSTGRES_EPOCH_MICROS) }
    }

    /// Reads RFC 3339, for years from 0001 to 9999. Digits after the microseconds are cut off.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc);
        (1..=9999).contains(&time.year()).then(|| Self(time.timestamp_micros()))
    }

    /// `2026-11-20T12:00:00.123456Z`: always UTC, always with six digits.
    pub fn to_rfc3339(self) -> String {
        let mut text = String::with_capacity(27);
        self.write_rfc3339(&mut text);
        text
    }

    /// Appends `2026-11-20T12:00:00.123456Z`. Written out by hand because it is done for every message that is read,
    /// and the general formatter takes ten times as long.
    pub fn write_rfc3339(self, out: &mut String) {
        let time = self.clamped();
        push_digits(out, time.year() as u32, 4);
        out.push('-');
        push_digits(out, time.month(), 2);
        out.push('-');
        push_digits(out, time.day(), 2);
        out.push('T');
        push_digits(out, time.hour(), 2);
        out.push(':');
        push_digits(out, time.minute(), 2);
        out.push(':');
        push_digits(out, time.second(), 2);
        out.push('.');
        push_digits(out, time.nanosecond() / 1_000 % 1_000_000, 6);
        out.push('Z');
    }

    /// Whether RFC 3339, which has four digits for the year, can write it. PostgreSQL's range, and its infinities, go
    /// further.
    pub fn is_rfc3339(self) -> bool {
        (FIRST..=LAST).contains(&self.0)
    }

    fn clamped(self) -> NaiveDateTime {
        Utc.timestamp_micros(self.0.clamp(FIRST, LAST)).single().unwrap_or_default().naive_utc()
    }
}

fn push_digits(out: &mut String, value: u32, width: u32) {
    for place in (0..width).rev() {
        out.push(char::from(b'0' + (value / 10u32.pow(place) % 10) as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_reads_to_the_microsecond() {
        for text in ["2026-11-20T12:00:00.123456Z", "0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z"] {
            assert_eq!(Timestamp::parse_rfc3339(text).unwrap().to_rfc3339(), text);
        }
        assert_eq!(
            Timestamp::parse_rfc3339("2026-11-20T13:00:00+01:00").unwrap().to_rfc3339(),
            "2026-11-20T12:00:00.000000Z"
        );
    }

    #[test]
    fn infinities_are_clamped_and_never_fail() {
        assert_eq!(Timestamp::from_postgres(i64::MAX).to_rfc3339(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::from_postgres(i64::MIN).to_rfc3339(), "0001-01-01T00:00:00.000000Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "yesterday", "2026-11-20", "2026-13-01T00:00:00Z", "+12026-11-20T12:00:00Z"] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }
}
