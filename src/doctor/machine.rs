//! Looks that need no database: settings, files, limits of the machine, the service itself.

use std::path::Path;
use std::time::Duration;

use super::Findings;
use crate::app;
use crate::config::Settings;

/// A disk with less than this share free is wrong, unless this many bytes are.
const DISK_FREE_SHARE_MIN: f64 = 0.10;
const DISK_FREE_ENOUGH_BYTES: u64 = 100 << 30;
/// A disk with fewer free bytes is wrong, however large it is.
const DISK_FREE_BYTES_MIN: u64 = 1 << 30;
const GB: f64 = (1u64 << 30) as f64;
/// The longest that the service may take to answer.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn look_at_settings(settings: &Settings, findings: &mut Findings) {
    match app::check_settings(settings).await {
        Ok(()) => findings.ok("settings", "can be used"),
        Err(error) => findings.wrong("settings", error.to_string(), "correct the setting: the service does not start"),
    }
}

pub fn look_at_open_files(settings: &Settings, findings: &mut Findings) {
    let (allowed, wanted) = (app::connections_max(settings), settings.connections_max);
    let open_files = app::open_files_max();
    if allowed >= wanted {
        return findings.ok("open_files", format!("{open_files} allow --connections-max {wanted}"));
    }
    let found =
        format!("{open_files} leave room for {allowed} connections of clients, and --connections-max is {wanted}");
    let advice = "raise the hard limit (LimitNOFILE of systemd, ulimit -n), or lower --connections-max. The service starts, \
        and takes as many as there is room for";
    match allowed < 100 {
        true => findings.wrong("open_files", found, advice),
        false => findings.note("open_files", found, Some(advice)),
    }
}

pub fn look_at_disk(data_dir: &Path, findings: &mut Findings) {
    let Some((free, total)) = disk_of(data_dir) else {
        return findings.unknown("disk", format!("{} cannot be looked at", data_dir.display()));
    };
    let found = format!("{:.1} GB of {:.1} GB are free at {}", free as f64 / GB, total as f64 / GB, data_dir.display());
    let is_small = free < DISK_FREE_BYTES_MIN
        || (free < DISK_FREE_ENOUGH_BYTES && (free as f64) < total as f64 * DISK_FREE_SHARE_MIN);
    match is_small {
        true => findings.wrong("disk", found, "make room before it is full: PostgreSQL stops when it cannot write"),
        false => findings.ok("disk", found),
    }
}

/// Bytes that are free for others than root, and all.
fn disk_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path ends with NUL, and the structure is filled by the call before it is read.
    let found = unsafe {
        let mut found = std::mem::zeroed::<libc::statvfs>();
        (libc::statvfs(path.as_ptr(), &mut found) == 0).then_some(found)
    }?;
    // The widths of these differ from system to system.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let bytes = |blocks: libc::fsblkcnt_t| blocks as u64 * found.f_frsize as u64;
    Some((bytes(found.f_bavail), bytes(found.f_blocks)))
}

/// Whether a service answers at the address of the settings. None need.
pub async fn look_at_service(settings: &Settings, findings: &mut Findings) {
    let address = settings.listen;
    if address.port() == 0 || settings.tls_certificate.is_some() {
        return findings.unknown("service", format!("not asked at {address}: its port or its name is not known"));
    }
    let ip = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1".to_owned(),
        ip if ip.is_unspecified() => "[::1]".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let url = format!("http://{ip}:{}", address.port());
    let client = reqwest::Client::builder().timeout(SERVICE_TIMEOUT).no_proxy().build();
    let Ok(client) = client else { return findings.unknown("service", "cannot be asked") };
    let answer = match client.get(format!("{url}/readyz")).send().await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return findings.note("service", format!("none runs at {url}"), None),
        Err(_) => {
            let found = format!("what listens at {url} does not answer within {SERVICE_TIMEOUT:?}");
            return findings.wrong("service", found, "look at its log, or take another --listen");
        }
    };
    let status = answer.status();
    let body: serde_json::Value =
        answer.text().await.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let checks = if status.is_success() { &body } else { &body["checks"] };
    if !checks["migrations"].is_boolean() {
        let found = format!("what listens at {url} is no Headwater");
        return findings.wrong("service", found, "take another --listen, or end that program");
    }
    let failed: Vec<&str> = ["database", "migrations", "listener", "projector", "tail"]
        .into_iter()
        .filter(|check| checks[check] != true)
        .collect();
    match failed.is_empty() {
        true => findings.ok("service", format!("ready at {url}")),
        false => {
            let found = format!("at {url} it is not ready: {}", failed.join(", "));
            findings.wrong("service", found, "the looks at the database below, and its log, say why");
        }
    }
}
