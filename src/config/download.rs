//! Settings of the PostgreSQL that is downloaded where none is installed.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{lasting, secure_url};

/// When PostgreSQL is downloaded for the embedded server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DownloadWhen {
    /// Not even if none is found
    Never,
    /// If no installed one is found that fits the data
    WhenMissing,
    /// Whatever is installed: what was downloaded is used, and fetched once
    Always,
}

/// Whether, and from where.
#[derive(Debug, Clone, Args)]
pub struct DownloadSettings {
    /// When a pinned PostgreSQL is downloaded for the embedded server
    #[arg(
        long,
        env = "HEADWATER_POSTGRES_DOWNLOAD",
        global = true,
        default_value = "when-missing",
        value_enum,
        value_name = "WHEN"
    )]
    pub postgres_download: DownloadWhen,
    /// Where it is downloaded from: the releases of theseus-rs/postgresql-binaries or a mirror of them; https, or http on
    /// this machine
    #[arg(
        long,
        env = "HEADWATER_POSTGRES_DOWNLOAD_URL",
        global = true,
        default_value = "https://github.com/theseus-rs/postgresql-binaries/releases/download",
        value_parser = secure_url,
        value_name = "URL"
    )]
    pub postgres_download_url: String,
    /// Time for the download (1s to 24h)
    #[arg(long, env = "HEADWATER_POSTGRES_DOWNLOAD_TIMEOUT", global = true, default_value = "10m", value_parser = lasting("1s", "24h"), value_name = "DURATION")]
    pub postgres_download_timeout: Duration,
}
