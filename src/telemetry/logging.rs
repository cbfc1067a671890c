//! Where log lines go, and in which format.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

use crate::domain::secret::without_secrets;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

/// The driver logs the parameters of every statement at `debug`: what messages have, whatever it is. Only a filter that
/// names the driver gets that.
const QUIET: &str = "tokio_postgres=info";

/// Sends log lines to standard error. `filter` is a tracing directive such as `info` or `headwater=debug`.
pub fn start_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| format!("log: {error}"))?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let text = match format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(|| CleanStderr).with_ansi(is_terminal);
    // The reader of standard error may be gone (`2>&1 | head`): reporting that on standard error would panic.
    let layer = layer.log_internal_errors(false);
    let layer = if text { layer.boxed() } else { layer.json().flatten_event(true).boxed() };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| format!("logging cannot be started: {error}"))
}

/// Standard error, without anything that looks like a credential: whatever a line is made of, its writer may not have known.
struct CleanStderr;

impl Write for CleanStderr {
    /// A line comes whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().write_all(without_secrets(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The message of a panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
