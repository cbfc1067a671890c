//! Rows with their figures, ratios and targets.

use std::time::Duration;

pub struct Report {
    words: Vec<String>,
    rows: Vec<[String; 4]>,
}

impl Report {
    pub fn new(words: Vec<String>) -> Self {
        println!("{:<58} {:>18} {:>24}  target", "row", "headwater", "beside");
        Self { words, rows: Vec::new() }
    }

    /// Whether a row was asked for.
    pub fn wants(&self, row: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| row.contains(word.as_str()))
    }

    pub fn row(&mut self, name: &str, own: String, beside: String, target: &str) {
        println!("{name:<58} {own:>18} {beside:>24}  {target}");
        self.rows.push([name.into(), own, beside, target.into()]);
    }

    pub fn finish(self) {
        println!("\n{} rows", self.rows.len());
    }
}

/// `12,345/s`
pub fn rate(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{out}/s")
}

/// `1.2 ×` of a peer's rate.
pub fn ratio(own: f64, peer: Option<f64>, what: &str) -> String {
    match peer {
        Some(peer) if peer > 0.0 => format!("{:.2} × {what} {}", own / peer, rate(peer)),
        _ => format!("{what}: skipped"),
    }
}

/// Times, sorted when they are asked for.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn join(&mut self, mut other: Times) {
        self.0.append(&mut other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn percentile(&mut self, percent: f64) -> Duration {
        self.0.sort_unstable();
        let at = ((self.0.len() as f64 - 1.0) * percent / 100.0).round();
        self.0.get(at.max(0.0) as usize).copied().unwrap_or_default()
    }

    /// `p50 1.20, p99 3.40 ms`
    pub fn show(&mut self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        format!("p50 {:.2} p99 {:.2} ms", ms(self.percentile(50.0)), ms(self.percentile(99.0)))
    }
}
