//! Which URLs of a PostgreSQL can be used, and how a URL is taken apart.

/// Parameters that say where a server is, or which server is wanted: that is found out by the service.
const ABOUT_HOSTS: [&str; 4] = ["host", "hostaddr", "port", "target_session_attrs"];

/// A URL in the parts between which its hosts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts<'a> {
    scheme: &'a str,
    /// With its `@`.
    user: &'a str,
    hosts: &'a str,
    /// With its `/`.
    path: &'a str,
    /// Its parameters, still encoded.
    query: &'a str,
}

impl<'a> Parts<'a> {
    /// `None`: this is no URL of a PostgreSQL.
    pub fn of(url: &'a str) -> Option<Self> {
        let rest = ["postgresql://", "postgres://"].iter().find_map(|scheme| url.strip_prefix(scheme))?;
        let (scheme, _) = url.split_at(url.len() - rest.len());
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before_query.split_at(before_query.find('/').unwrap_or(before_query.len()));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Some(Self { scheme, user, hosts, path, query })
    }

    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The URL without what drivers read in different ways: several hosts in a parameter are put where one is.
    pub fn with_hosts(&self) -> String {
        match self.hosts_of_query() {
            Some(hosts) => self.written(&hosts.join(","), &["target_session_attrs", "host", "port"]),
            None => self.written(self.hosts, &["target_session_attrs"]),
        }
    }

    /// The hosts of the parameter `host`, each with its port, as they are written before the path. `None`: hosts are named
    /// before the path, or not at all, or it is not clear which port is whose.
    fn hosts_of_query(&self) -> Option<Vec<String>> {
        let items = |value: &str| -> Vec<String> {
            let value = value.replace("%2C", ",").replace("%2c", ",");
            value.split(',').filter(|item| !item.is_empty()).map(|item| item.replace('/', "%2F")).collect()
        };
        let hosts = self.parameter("host").filter(|_| self.hosts.is_empty()).map(items)?;
        let ports = self.parameter("port").map(items).unwrap_or_default();
        if hosts.is_empty() || ports.len() > 1 && ports.len() != hosts.len() {
            return None;
        }
        let with_port = |(at, host): (usize, String)| {
            // Before the path, colons part a host from its port.
            let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
            ports.get(at).or(ports.first()).map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
        };
        Some(hosts.into_iter().enumerate().map(with_port).collect())
    }

    /// The URL of the same database with another host, or with none.
    pub fn with_host(&self, host: &str) -> String {
        self.written(host, &ABOUT_HOSTS)
    }

    fn written(&self, hosts: &str, left_out: &[&str]) -> String {
        let kept = self.parameters().filter(|(name, _)| !left_out.contains(name));
        let kept: Vec<String> = kept.map(|(name, value)| format!("{name}={value}")).collect();
        let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
        format!("{}{}{hosts}{}{query}", self.scheme, self.user, self.path)
    }
}

/// Checks a URL before a connection is tried. The error does not repeat the URL, which may have a password.
pub fn check(url: &str) -> Result<(), &'static str> {
    let Some(parts) = Parts::of(url) else {
        return Err("must begin with postgresql://, as in postgresql://user@localhost/database");
    };
    let wanted = parts.parameters().filter(|(name, _)| *name == "target_session_attrs");
    if wanted.map(|(_, value)| value).any(|value| !["any", "read-write", "primary"].contains(&value)) {
        return Err("must lead to a primary: target_session_attrs may be read-write, primary or any");
    }
    Ok(())
}

/// Checks a URL that names replicas, in the same way.
pub fn check_replicas(url: &str) -> Result<(), &'static str> {
    if Parts::of(url).is_none() {
        return Err("must begin with postgresql://, as in postgresql://user@replica1,replica2/database");
    }
    if of_each_host(url).is_empty() {
        return Err("must name a host, as in postgresql://user@replica1,replica2/database");
    }
    Ok(())
}

/// The hosts that a URL names, each with the URL that leads to it alone.
pub fn of_each_host(url: &str) -> Vec<(String, String)> {
    let Some(parts) = Parts::of(url) else { return Vec::new() };
    let before_path = || parts.hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
    let hosts: Vec<String> = parts.hosts_of_query().unwrap_or_else(before_path);
    hosts.into_iter().map(|host| (host.replace("%2F", "/").replace("%2f", "/"), parts.with_host(&host))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgresql_is_named_with_one_host_or_several() {
        for url in [
            "postgres://localhost/d",
            "postgresql://u:p%2C@h:5433/d?sslmode=require",
            "postgresql:///d?host=/tmp/x",
            "postgresql://headwater@%2Fa%20b%2Fc%2Cd%40e:5432/headwater?sslmode=disable",
            "postgresql://u:a,b@h/d",
            "postgresql://h/d?options=-c%20search_path%3Da%2Cb",
            "postgresql://a,b/d",
            "postgresql://u:p@a:1,b:2/d?target_session_attrs=read-write",
            "postgresql:///d?host=a,b&target_session_attrs=primary",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in
            ["", "mysql://h/d", "h/d", "host=h dbname=d", "POSTGRES://h/d", "postgresql:h", "jdbc:postgresql://h/d"]
        {
            assert!(check(url).is_err_and(|reason| reason.contains("postgresql://")), "{url}");
        }
        for wanted in ["standby", "read-only", "prefer-standby", "nonsense", ""] {
            let url = format!("postgresql://a,b/d?target_session_attrs={wanted}");
            assert!(check(&url).is_err_and(|reason| reason.contains("primary")), "{url}");
        }
    }

    #[test]
    fn replicas_are_named_one_by_one() {
        let each =
            |url: &str| of_each_host(url).into_iter().map(|(name, url)| format!("{name} {url}")).collect::<Vec<_>>();
        assert_eq!(
            each("postgresql://u:p@a:1,b/d?target_session_attrs=any&sslmode=require"),
            ["a:1 postgresql://u:p@a:1/d?sslmode=require", "b postgresql://u:p@b/d?sslmode=require"]
        );
        assert_eq!(
            each("postgresql:///d?host=/x,y&port=1,2"),
            ["/x:1 postgresql://%2Fx:1/d", "y:2 postgresql://y:2/d"]
        );
        assert_eq!(each("postgresql://u@%2Fx%2Fy/d"), ["/x/y postgresql://u@%2Fx%2Fy/d"]);
        assert_eq!(check_replicas("postgresql://a,b/d"), Ok(()));
        assert!(check_replicas("postgresql:///d").is_err_and(|reason| reason.contains("host")));
        assert!(check_replicas("mysql://a").is_err_and(|reason| reason.contains("postgresql://")));
    }

    #[test]
    fn hosts_are_taken_out_of_a_url_and_put_into_it() {
        for (url, without, with) in [
            (
                "postgresql://u:p@a:1,b:2/d?sslmode=require",
                "postgresql://u:p@/d?sslmode=require",
                "postgresql://u:p@x/d?sslmode=require",
            ),
            ("postgres://a/d", "postgres:///d", "postgres://x/d"),
            ("postgres://u@a", "postgres://u@", "postgres://u@x"),
            (
                "postgresql:///d?host=a,b&port=1&user=u&target_session_attrs=any",
                "postgresql:///d?user=u",
                "postgresql://x/d?user=u",
            ),
            (
                "postgresql://a?options=-c%20a%3Db",
                "postgresql://?options=-c%20a%3Db",
                "postgresql://x?options=-c%20a%3Db",
            ),
        ] {
            let parts = Parts::of(url).unwrap();
            assert_eq!((parts.with_host(""), parts.with_host("x")), (without.into(), with.into()), "{url}");
        }
        let parts = Parts::of("postgresql://a,b/d?target_session_attrs=primary&sslmode=disable").unwrap();
        assert_eq!(parts.with_hosts(), "postgresql://a,b/d?sslmode=disable");
        for (url, with_hosts) in [
            ("postgresql:///d?host=a,/tmp/x&port=7&user=u", "postgresql://a:7,%2Ftmp%2Fx:7/d?user=u"),
            ("postgresql:///d?host=::1,a&port=7", "postgresql://[::1]:7,a:7/d"),
            ("postgresql:///d?host=/tmp/x", "postgresql://%2Ftmp%2Fx/d"),
            ("postgresql:///d?host=a%2Cb&port=1,2", "postgresql://a:1,b:2/d"),
            ("postgresql:///d?host=a,b,c&port=1,2", "postgresql:///d?host=a,b,c&port=1,2"),
        ] {
            assert_eq!(Parts::of(url).unwrap().with_hosts(), with_hosts, "{url}");
        }
    }
}
