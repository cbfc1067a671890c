//! Settings on how much one credential may use. Where credentials are off, they mean nothing.

use clap::Args;

use super::within;

/// What of the whole service one credential may use. 0 is always no limit but that of all together.
#[derive(Debug, Clone, Args)]
pub struct PerCredential {
    /// Followers of one credential; one more is answered `rate-limited`. 0: no limit (0 to 1000000)
    #[arg(long, env = "HEADWATER_FOLLOWERS_PER_CREDENTIAL_MAX", global = true, default_value_t = 5_000, value_parser = within(0, 1_000_000), value_name = "COUNT")]
    pub followers_per_credential_max: usize,
    /// Append requests of one credential in a second, and commits of its append sessions; one more request is answered
    /// `rate-limited`. 0: no limit (0 to 1000000)
    #[arg(long, env = "HEADWATER_APPENDS_PER_CREDENTIAL_MAX", global = true, default_value_t = 0, value_parser = within(0, 1_000_000), value_name = "COUNT")]
    pub appends_per_credential_max: usize,
    /// Open append sessions of one credential; one more is answered `rate-limited`. 0: no limit (0 to 1000000)
    #[arg(long, env = "HEADWATER_APPEND_SESSIONS_PER_CREDENTIAL_MAX", global = true, default_value_t = 250, value_parser = within(0, 1_000_000), value_name = "COUNT")]
    pub append_sessions_per_credential_max: usize,
    /// Subscriptions that one credential may make. 0: no limit (0 to 1000000)
    #[arg(long, env = "HEADWATER_SUBSCRIPTIONS_PER_CREDENTIAL_MAX", global = true, default_value_t = 1_000, value_parser = within(0, 1_000_000), value_name = "COUNT")]
    pub subscriptions_per_credential_max: usize,
    /// Aggregated streams that one credential may define. 0: no limit (0 to 10000)
    #[arg(long, env = "HEADWATER_AGGREGATED_STREAMS_PER_CREDENTIAL_MAX", global = true, default_value_t = 100, value_parser = within(0, 10_000), value_name = "COUNT")]
    pub aggregated_streams_per_credential_max: usize,
}
