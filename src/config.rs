//! Every setting: a flag, a variable `HEADWATER_…` and a key of the TOML file, in this order of precedence.

mod backup;
mod commands;
mod credentials;
mod download;
mod groups;
mod in_effect;
mod per_credential;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

use self::backup::BackupSettings;
pub use self::commands::{Command, GrantExtra, KeysCommand, OpenApiVersion};
pub use self::credentials::{CredentialSettings, CredentialsMode};
pub use self::download::{DownloadSettings, DownloadWhen};
pub use self::groups::UNGROUPED;
use self::per_credential::PerCredential;
use self::values::{config_file, lasting, secure_url, with_file, within};
use crate::build_info;
use crate::domain::browser::{HostName, Origin};
use crate::domain::database_url;
use crate::domain::setting::SettingInEffect;
use crate::telemetry::logging::LogFormat;

/// The variable that names a database if no setting does.
const DATABASE_URL: &str = "DATABASE_URL";

/// Whose caches may keep pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PageCache {
    /// The client's own
    Private,
    /// Also those that many clients share
    Public,
}

/// An event store that a browser can subscribe to.
#[derive(Debug, Parser)]
#[command(name = "headwater", version = build_info::line(), about, args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

/// All settings, checked. Durations are written `500ms`, `30s`, `5m`; sizes are bytes.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// TOML file with any of these settings, by their long names with `_` for `-`
    #[arg(long, env = "HEADWATER_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "HEADWATER_LISTEN", global = true, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Serve an address that others can reach without credentials
    #[arg(long, env = "HEADWATER_INSECURE", global = true)]
    pub insecure: bool,
    /// PEM file with the certificate chain; with it, the service speaks TLS
    #[arg(long, env = "HEADWATER_TLS_CERTIFICATE", global = true, value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "HEADWATER_TLS_KEY", global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// How often the certificate's files are looked at; changed ones are used from then on (100ms to 24h)
    #[arg(long, env = "HEADWATER_TLS_RELOAD_INTERVAL", global = true, default_value = "10s", value_parser = lasting("100ms", "24h"), value_name = "DURATION")]
    pub tls_reload_interval: Duration,
    /// Origin whose pages may call this service (`https://app.example`); may be given several times
    #[arg(long, env = "HEADWATER_CORS_ORIGIN", global = true, value_delimiter = ',', value_name = "ORIGIN")]
    pub cors_origin: Vec<Origin>,
    /// Name that the service is called by, beside `localhost` and addresses (`headwater.internal`); may be given several
    /// times
    #[arg(long, env = "HEADWATER_ALLOWED_HOST", global = true, value_delimiter = ',', value_name = "NAME")]
    pub allowed_host: Vec<HostName>,

    #[command(flatten)]
    pub auth: CredentialSettings,

    /// PostgreSQL to use (`postgresql://user@host/database`); of several hosts (`host1,host2`), the primary. Without one, an
    /// embedded server is started
    #[arg(long, env = "HEADWATER_DATABASE_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Directory of the embedded server's data [default: ~/.local/share/headwater, as root /var/lib/headwater]
    #[arg(long, env = "HEADWATER_DATA_DIR", global = true, value_name = "DIRECTORY")]
    pub data_dir: Option<PathBuf>,
    /// Directory of the PostgreSQL programs for the embedded server [default: found]
    #[arg(long, env = "HEADWATER_POSTGRES_BIN_DIR", global = true, value_name = "DIRECTORY")]
    pub postgres_bin_dir: Option<PathBuf>,
    #[command(flatten)]
    pub download: DownloadSettings,
    #[command(flatten)]
    pub backup: BackupSettings,
    /// Connections to the database in the pools (4 to 1000); some agents keep one more each
    #[arg(long, env = "HEADWATER_DATABASE_CONNECTIONS_MAX", global = true, default_value_t = 16, value_parser = within(4, 1_000), value_name = "COUNT")]
    pub database_connections_max: usize,
    /// Time to connect to the database, or to wait for a free connection (100ms to 60s)
    #[arg(long, env = "HEADWATER_DATABASE_CONNECT_TIMEOUT", global = true, default_value = "5s", value_parser = lasting("100ms", "60s"), value_name = "DURATION")]
    pub database_connect_timeout: Duration,
    /// Time to wait at start for a database that cannot be reached yet (0s to 1h)
    #[arg(long, env = "HEADWATER_DATABASE_WAIT", global = true, default_value = "60s", value_parser = lasting("0s", "1h"), value_name = "DURATION")]
    pub database_wait: Duration,
    /// Give up a database connection on which nothing is heard for this long (1s to 5m)
    #[arg(long, env = "HEADWATER_DATABASE_SILENCE_TIMEOUT", global = true, default_value = "10s", value_parser = lasting("1s", "5m"), value_name = "DURATION")]
    pub database_silence_timeout: Duration,

    /// The same PostgreSQL without a pooler, where `--database-url` leads to one that keeps no sessions (PgBouncer with
    /// `pool_mode = transaction`)
    #[arg(long, env = "HEADWATER_DIRECT_DATABASE_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub direct_database_url: Option<String>,
    /// Replicas of the PostgreSQL in use, from which history is read as far as each has replayed it
    /// (`postgresql://user@replica1,replica2/database`)
    #[arg(long, env = "HEADWATER_REPLICA_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub replica_url: Option<String>,
    /// How often it is looked which of several servers is the primary (100ms to 60s)
    #[arg(long, env = "HEADWATER_DATABASE_WATCH_INTERVAL", global = true, default_value = "2s", value_parser = lasting("100ms", "60s"), value_name = "DURATION")]
    pub database_watch_interval: Duration,

    /// Append requests that may wait; one more is answered `overloaded` (1 to 1000000)
    #[arg(long, env = "HEADWATER_APPEND_QUEUE_MAX", global = true, default_value_t = 10_000, value_parser = within(1, 1_000_000), value_name = "COUNT")]
    pub append_queue_max: usize,
    /// Bytes of append requests that may wait (65536 to 17179869184)
    #[arg(long, env = "HEADWATER_APPEND_QUEUE_BYTES_MAX", global = true, default_value_t = 64 << 20, value_parser = within(64 << 10, 16 << 30), value_name = "BYTES")]
    pub append_queue_bytes_max: usize,
    /// Messages in one transaction (1 to 10000)
    #[arg(long, env = "HEADWATER_APPEND_BATCH_MESSAGES_MAX", global = true, default_value_t = 1_000, value_parser = within(1, 10_000), value_name = "COUNT")]
    pub append_batch_messages_max: usize,
    /// Bytes in one transaction (1024 to 1073741824)
    #[arg(long, env = "HEADWATER_APPEND_BATCH_BYTES_MAX", global = true, default_value_t = 4 << 20, value_parser = within(1 << 10, 1 << 30), value_name = "BYTES")]
    pub append_batch_bytes_max: usize,
    /// Append sessions that may be open; one more is answered `overloaded` (0 to 100000)
    #[arg(long, env = "HEADWATER_APPEND_SESSIONS_MAX", global = true, default_value_t = 1_000, value_parser = within(0, 100_000), value_name = "COUNT")]
    pub append_sessions_max: usize,
    /// Messages of an append session in one commit; as many again are read meanwhile (1 to 10000)
    #[arg(long, env = "HEADWATER_APPEND_SESSION_MESSAGES_MAX", global = true, default_value_t = 1_000, value_parser = within(1, 10_000), value_name = "COUNT")]
    pub append_session_messages_max: usize,
    /// Bytes of an append session in one commit; as many again are read meanwhile (1024 to 1073741824)
    #[arg(long, env = "HEADWATER_APPEND_SESSION_BYTES_MAX", global = true, default_value_t = 256 << 10, value_parser = within(1 << 10, 1 << 30), value_name = "BYTES")]
    pub append_session_bytes_max: usize,
    /// Messages that are looked at for the conditions of one append request (1 to 100000000)
    #[arg(long, env = "HEADWATER_APPEND_CONDITION_MESSAGES_MAX", global = true, default_value_t = 200_000, value_parser = within(1, 100_000_000), value_name = "COUNT")]
    pub append_condition_messages_max: usize,
    /// Connections on which appends wait for categories that other transactions have locked (1 to 100)
    #[arg(long, env = "HEADWATER_APPEND_LOCKED_CATEGORIES_MAX", global = true, default_value_t = 8, value_parser = within(1, 100), value_name = "COUNT")]
    pub append_locked_categories_max: usize,
    /// Time that an append waits for its category's lock (10ms to 5m)
    #[arg(long, env = "HEADWATER_APPEND_LOCK_TIMEOUT", global = true, default_value = "10s", value_parser = lasting("10ms", "5m"), value_name = "DURATION")]
    pub append_lock_timeout: Duration,
    /// Time for a commit, after which its outcome is looked up (100ms to 5m)
    #[arg(long, env = "HEADWATER_APPEND_COMMIT_TIMEOUT", global = true, default_value = "10s", value_parser = lasting("100ms", "5m"), value_name = "DURATION")]
    pub append_commit_timeout: Duration,
    /// Time to look up what became of a commit whose answer was lost (1s to 10m)
    #[arg(long, env = "HEADWATER_APPEND_RESOLVE_TIMEOUT", global = true, default_value = "25s", value_parser = lasting("1s", "10m"), value_name = "DURATION")]
    pub append_resolve_timeout: Duration,

    /// Bytes of the newest messages kept for followers who keep up (65536 to 17179869184)
    #[arg(long, env = "HEADWATER_CACHE_BYTES_MAX", global = true, default_value_t = 64 << 20, value_parser = within(64 << 10, 16 << 30), value_name = "BYTES")]
    pub cache_bytes_max: usize,
    /// Bytes of pages of history that were read for one follower and are kept for five seconds for others of the same
    /// source; 0: every follower reads its own (0 to 17179869184)
    #[arg(long, env = "HEADWATER_HISTORY_CACHE_BYTES_MAX", global = true, default_value_t = 16 << 20, value_parser = within(0, 16 << 30), value_name = "BYTES")]
    pub history_cache_bytes_max: usize,
    /// Aggregated streams that may be defined (0 to 10000)
    #[arg(long, env = "HEADWATER_AGGREGATED_STREAMS_MAX", global = true, default_value_t = 1_000, value_parser = within(0, 10_000), value_name = "COUNT")]
    pub aggregated_streams_max: usize,
    /// Bytes of the newest messages kept for the followers of one aggregated stream (65536 to 17179869184)
    #[arg(long, env = "HEADWATER_AGGREGATED_CACHE_BYTES_MAX", global = true, default_value_t = 8 << 20, value_parser = within(64 << 10, 16 << 30), value_name = "BYTES")]
    pub aggregated_cache_bytes_max: usize,
    /// How long the right to project aggregated streams lasts without being prolonged: after a crash another instance
    /// takes over within this time (500ms to 5m)
    #[arg(long, env = "HEADWATER_PROJECTOR_LEASE", global = true, default_value = "5s", value_parser = lasting("500ms", "5m"), value_name = "DURATION")]
    pub projector_lease: Duration,
    /// Aggregated streams that read history at the same time (1 to 64)
    #[arg(long, env = "HEADWATER_PROJECTOR_CATCH_UPS_MAX", global = true, default_value_t = 2, value_parser = within(1, 64), value_name = "COUNT")]
    pub projector_catch_ups_max: usize,
    /// How often the log is looked at without a signal (50ms to 60s)
    #[arg(long, env = "HEADWATER_POLL_INTERVAL", global = true, default_value = "1s", value_parser = lasting("50ms", "60s"), value_name = "DURATION")]
    pub poll_interval: Duration,
    /// Signals of new messages are sent to other instances at most this often (1ms to 1s)
    #[arg(long, env = "HEADWATER_NOTIFY_INTERVAL", global = true, default_value = "5ms", value_parser = lasting("1ms", "1s"), value_name = "DURATION")]
    pub notify_interval: Duration,
    /// How often the listening connection is asked whether it is still there (100ms to 60s)
    #[arg(long, env = "HEADWATER_LISTENER_HEARTBEAT", global = true, default_value = "1s", value_parser = lasting("100ms", "60s"), value_name = "DURATION")]
    pub listener_heartbeat: Duration,
    /// Warn of a writer that keeps later messages from being delivered for this long (100ms to 1h)
    #[arg(long, env = "HEADWATER_HELD_BACK_WARNING", global = true, default_value = "5s", value_parser = lasting("100ms", "1h"), value_name = "DURATION")]
    pub held_back_warning: Duration,

    /// Subscriptions in all (1 to 1000000)
    #[arg(long, env = "HEADWATER_SUBSCRIPTIONS_MAX", global = true, default_value_t = 10_000, value_parser = within(1, 1_000_000), value_name = "COUNT")]
    pub subscriptions_max: usize,
    /// Consumers of one subscription; one more is answered `overloaded` (1 to 10000)
    #[arg(long, env = "HEADWATER_SUBSCRIPTION_CONSUMERS_MAX", global = true, default_value_t = 1_000, value_parser = within(1, 10_000), value_name = "COUNT")]
    pub subscription_consumers_max: usize,
    /// Time for a consumer to ack what it has of a partition that goes to another one (0s to 30s)
    #[arg(long, env = "HEADWATER_SUBSCRIPTION_REVOKE_GRACE", global = true, default_value = "500ms", value_parser = lasting("0s", "30s"), value_name = "DURATION")]
    pub subscription_revoke_grace: Duration,
    /// Requests with acks that may wait; one more is answered `overloaded` (1 to 1000000)
    #[arg(long, env = "HEADWATER_ACK_QUEUE_MAX", global = true, default_value_t = 10_000, value_parser = within(1, 1_000_000), value_name = "COUNT")]
    pub ack_queue_max: usize,

    /// The pause between two passes of a retention over its category (100ms to 1h)
    #[arg(long, env = "HEADWATER_RETENTION_INTERVAL", global = true, default_value = "10s", value_parser = lasting("100ms", "1h"), value_name = "DURATION")]
    pub retention_interval: Duration,

    /// How often a sample of the service's own metrics is kept, for charts; 1440 are kept. 0s: never (0s to 10m)
    #[arg(long, env = "HEADWATER_METRICS_HISTORY_INTERVAL", global = true, default_value = "15s", value_parser = lasting("0s", "10m"), value_name = "DURATION")]
    pub metrics_history_interval: Duration,

    /// Followers in all; one more is answered `overloaded` (1 to 1000000)
    #[arg(long, env = "HEADWATER_FOLLOWERS_MAX", global = true, default_value_t = 20_000, value_parser = within(1, 1_000_000), value_name = "COUNT")]
    pub followers_max: usize,
    #[command(flatten)]
    pub per_credential: PerCredential,
    /// Streams of which event streams with `from=latest_of_each` have the newest messages still to send, of all connections
    /// together (1 to 100000000)
    #[arg(long, env = "HEADWATER_LATEST_OF_EACH_STREAMS_MAX", global = true, default_value_t = 1_000_000, value_parser = within(1, 100_000_000), value_name = "COUNT")]
    pub latest_of_each_streams_max: usize,
    /// Heartbeat of a quiet event stream, unless it asks for another (1s to 5m)
    #[arg(long, env = "HEADWATER_HEARTBEAT", global = true, default_value = "15s", value_parser = lasting("1s", "5m"), value_name = "DURATION")]
    pub heartbeat: Duration,
    /// Whose caches may keep full pages of settled messages: the client's own, or also those that many share, which is for
    /// services without credentials only
    #[arg(
        long,
        env = "HEADWATER_PAGE_CACHE",
        global = true,
        default_value = "private",
        value_enum,
        value_name = "WHOSE"
    )]
    pub page_cache: PageCache,
    /// How long they may keep them without asking; an erasure is seen after that (0s to 24h)
    #[arg(long, env = "HEADWATER_PAGE_MAX_AGE", global = true, default_value = "60s", value_parser = lasting("0s", "24h"), value_name = "DURATION")]
    pub page_max_age: Duration,
    /// How much longer they may use them while they ask (0s to 24h)
    #[arg(long, env = "HEADWATER_PAGE_STALE_WHILE_REVALIDATE", global = true, default_value = "5m", value_parser = lasting("0s", "24h"), value_name = "DURATION")]
    pub page_stale_while_revalidate: Duration,
    /// Longest `wait` of a long poll (1s to 10m)
    #[arg(long, env = "HEADWATER_WAIT_MAX", global = true, default_value = "60s", value_parser = lasting("1s", "10m"), value_name = "DURATION")]
    pub wait_max: Duration,

    /// Connections that may be open; one more is refused (1 to 1000000)
    #[arg(long, env = "HEADWATER_CONNECTIONS_MAX", global = true, default_value_t = 30_000, value_parser = within(1, 1_000_000), value_name = "COUNT")]
    pub connections_max: usize,
    /// Connections that may be open from one address, of IPv6 from one /64; 0: as many as in all. A proxy in front has one
    /// address (0 to 1000000)
    #[arg(long, env = "HEADWATER_CONNECTIONS_PER_ADDRESS_MAX", global = true, default_value_t = 25_000, value_parser = within(0, 1_000_000), value_name = "COUNT")]
    pub connections_per_address_max: usize,
    /// Bytes of bodies, of requests and answers, that may be in memory at the same time; one more is answered `overloaded`
    /// (1048576 to 68719476736)
    #[arg(long, env = "HEADWATER_BODIES_BYTES_MAX", global = true, default_value_t = 256 << 20, value_parser = within(1 << 20, 64 << 30), value_name = "BYTES")]
    pub bodies_bytes_max: usize,
    /// Bytes of a request's body (1024 to 1073741824)
    #[arg(long, env = "HEADWATER_BODY_BYTES_MAX", global = true, default_value_t = 4 << 20, value_parser = within(1 << 10, 1 << 30), value_name = "BYTES")]
    pub body_bytes_max: usize,
    /// Bytes of one message's data and metadata together (256 to 268435456)
    #[arg(long, env = "HEADWATER_MESSAGE_BYTES_MAX", global = true, default_value_t = 1 << 20, value_parser = within(256, 256 << 20), value_name = "BYTES")]
    pub message_bytes_max: usize,
    /// Messages in one append request (1 to 10000)
    #[arg(long, env = "HEADWATER_MESSAGES_PER_APPEND_MAX", global = true, default_value_t = 1_000, value_parser = within(1, 10_000), value_name = "COUNT")]
    pub messages_per_append_max: usize,
    /// Bytes of messages in one page; a page with larger ones ends early (65536 to 1073741824)
    #[arg(long, env = "HEADWATER_PAGE_BYTES_MAX", global = true, default_value_t = 16 << 20, value_parser = within(64 << 10, 1 << 30), value_name = "BYTES")]
    pub page_bytes_max: usize,
    /// Header lines of a request (10 to 1000)
    #[arg(long, env = "HEADWATER_HEADERS_MAX", global = true, default_value_t = 100, value_parser = within(10, 1_000), value_name = "COUNT")]
    pub headers_max: usize,
    /// Bytes of a request's headers (1024 to 262144)
    #[arg(long, env = "HEADWATER_HEADER_BYTES_MAX", global = true, default_value_t = 32 << 10, value_parser = within(1 << 10, 256 << 10), value_name = "BYTES")]
    pub header_bytes_max: usize,
    /// Bytes of a request's path and query (256 to 65000)
    #[arg(long, env = "HEADWATER_URL_BYTES_MAX", global = true, default_value_t = 8 << 10, value_parser = within(256, 65_000), value_name = "BYTES")]
    pub url_bytes_max: usize,
    /// Time for a request to be read and answered, long polls and event streams aside (100ms to 10m)
    #[arg(long, env = "HEADWATER_REQUEST_TIMEOUT", global = true, default_value = "30s", value_parser = lasting("100ms", "10m"), value_name = "DURATION")]
    pub request_timeout: Duration,
    /// Time for which a client may take nothing of an answer, and for each MB of it at most, event streams aside (100ms to
    /// 10m)
    #[arg(long, env = "HEADWATER_WRITE_TIMEOUT", global = true, default_value = "30s", value_parser = lasting("100ms", "10m"), value_name = "DURATION")]
    pub write_timeout: Duration,
    /// Time between a signal to stop and the stop, while `/readyz` says 503 and all requests are served: for balancers to
    /// notice. Passed over if nobody has asked `/readyz` in the last minute (0s to 10m)
    #[arg(long, env = "HEADWATER_DRAIN_GRACE", global = true, default_value = "5s", value_parser = lasting("0s", "10m"), value_name = "DURATION")]
    pub drain_grace: Duration,
    /// Time for open requests and event streams to end when the service stops; the ends of many event streams are spread
    /// over up to half of it (0s to 10m)
    #[arg(long, env = "HEADWATER_DRAIN_TIMEOUT", global = true, default_value = "10s", value_parser = lasting("0s", "10m"), value_name = "DURATION")]
    pub drain_timeout: Duration,

    /// What is logged: `error`, `warn`, `info`, `debug`, or directives such as `headwater=debug`
    #[arg(long, env = "HEADWATER_LOG", global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How log lines look
    #[arg(
        long,
        env = "HEADWATER_LOG_FORMAT",
        global = true,
        default_value = "auto",
        value_enum,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,

    /// All of these as they were read, to be told.
    #[arg(skip)]
    pub in_effect: Vec<SettingInEffect>,
}

impl Cli {
    /// Reads flags, variables and the TOML file. Exits with 2, naming the setting, if one is wrong.
    pub fn read() -> Self {
        let arguments: Vec<_> = std::env::args_os().collect();
        match Self::read_from(arguments) {
            Ok(cli) => cli,
            Err(error) => error.exit(),
        }
    }

    /// The commands and settings, these in groups.
    pub fn grouped() -> clap::Command {
        groups::grouped(Self::command())
    }

    /// Reads given arguments in the same way.
    pub fn read_from(arguments: Vec<std::ffi::OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::grouped();
        if let Some(file) = config_file(&arguments) {
            command = with_file(command, &file)?;
        }
        let matches = command.try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let mut plain = Self::command();
        plain.build();
        cli.settings.in_effect = in_effect::settings(&plain, &matches);
        cli.settings.fall_back();
        cli.settings.check_urls()?;
        cli.settings.check_tls()?;
        Ok(cli)
    }
}

impl Settings {
    /// The database that is given: without a pooler before it, where that is known.
    pub fn given_database(&self) -> Option<&str> {
        self.direct_database_url.as_deref().or(self.database_url.as_deref())
    }

    /// The settings with every default.
    pub fn defaults() -> Self {
        // Without arguments nothing can be wrong but a variable, and that is said with its name.
        Cli::parse_from(["headwater"]).settings
    }

    fn fall_back(&mut self) {
        if self.database_url.is_none() {
            self.database_url = std::env::var(DATABASE_URL).ok().filter(|url| !url.is_empty());
            if self.database_url.is_some() {
                in_effect::hide(&mut self.in_effect, "database-url");
            }
        }
    }

    /// Not with the others, because values of the file are defaults there, which no rule of clap counts.
    fn check_tls(&self) -> Result<(), clap::Error> {
        let missing = match (&self.tls_certificate, &self.tls_key) {
            (Some(_), None) => "--tls-certificate (HEADWATER_TLS_CERTIFICATE) goes with --tls-key (HEADWATER_TLS_KEY)",
            (None, Some(_)) => "--tls-key (HEADWATER_TLS_KEY) goes with --tls-certificate (HEADWATER_TLS_CERTIFICATE)",
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        let said = format!("{missing}, which is not given\n");
        Err(clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, said))
    }

    /// Not with the others, because their errors repeat the value.
    fn check_urls(&self) -> Result<(), clap::Error> {
        let refused = |name: &str, reason: &str| {
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("the value of {name} {reason}\n"))
        };
        if let Some(url) = &self.replica_url {
            let checked = database_url::check_replicas(url);
            checked.map_err(|reason| refused("--replica-url (HEADWATER_REPLICA_URL)", reason))?;
        }
        if let Some(url) = &self.direct_database_url {
            let checked = database_url::check(url);
            checked.map_err(|reason| refused("--direct-database-url (HEADWATER_DIRECT_DATABASE_URL)", reason))?;
        }
        let Some(url) = &self.database_url else { return Ok(()) };
        database_url::check(url).map_err(|reason| {
            let fell_back = std::env::var(DATABASE_URL).is_ok_and(|fallback| fallback == *url);
            refused(if fell_back { DATABASE_URL } else { "--database-url (HEADWATER_DATABASE_URL)" }, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Cli, String> {
        let arguments = std::iter::once("headwater").chain(arguments.iter().copied()).map(Into::into).collect();
        Cli::read_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("headwater.toml");
        std::fs::write(&file, "listen = '127.0.0.1:9'\nheartbeat = '3s'\nfollowers_max = 7\ninsecure = true\n")
            .unwrap();
        let file = file.to_str().unwrap();
        let settings = read(&["--config", file, "--heartbeat", "4s"]).unwrap().settings;
        assert_eq!(settings.listen, "127.0.0.1:9".parse().unwrap());
        assert_eq!(settings.heartbeat, Duration::from_secs(4));
        assert_eq!(settings.followers_max, 7);
        assert!(settings.insecure);
        assert_eq!(settings.body_bytes_max, 4 << 20);
    }

    #[test]
    fn a_wrong_setting_is_refused_with_its_name() {
        assert!(read(&["--heartbeat", "1h"]).unwrap_err().contains("--heartbeat"));
        assert!(read(&["--followers-max", "0"]).unwrap_err().contains("--followers-max"));
        assert!(read(&["--listen", "everywhere"]).unwrap_err().contains("--listen"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("headwater.toml");
        std::fs::write(&file, "no_such_thing = 1").unwrap();
        assert!(read(&["--config", file.to_str().unwrap()]).unwrap_err().contains("no_such_thing"));
        std::fs::write(&file, "heartbeat = '1h'").unwrap();
        assert!(read(&["--config", file.to_str().unwrap()]).unwrap_err().contains("heartbeat"));
    }
}
