//! Which URLs of a PostgreSQL can be used.

/// Checks a URL before a connection is tried. The error does not repeat the URL, which may have a password.
pub fn check(url: &str) -> Result<(), &'static str> {
    let Some(rest) = ["postgresql://", "postgres://"].iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        return Err("must begin with postgresql://, as in postgresql://user@localhost/database");
    };
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = before_query.split('/').next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    let in_query = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut named = in_query.filter(|(name, _)| ["host", "hostaddr", "port"].contains(name)).map(|(_, value)| value);
    // In a query, %2C is a comma too; in the authority it is part of the path of a socket.
    if hosts.contains(',') || named.any(|value| value.contains(',') || value.to_ascii_uppercase().contains("%2C")) {
        return Err("must name one host: several are not supported yet. Name the address that leads to the primary");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn one_postgresql_is_named() {
        for url in [
            "postgres://localhost/d",
            "postgresql://u:p%2C@h:5433/d?sslmode=require",
            "postgresql:///d?host=/tmp/x",
            "postgresql://headwater@%2Fa%20b%2Fc%2Cd%40e:5432/headwater?sslmode=disable",
            "postgresql://u:a,b@h/d",
            "postgresql://h/d?options=-c%20search_path%3Da%2Cb",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in
            ["", "mysql://h/d", "h/d", "host=h dbname=d", "POSTGRES://h/d", "postgresql:h", "jdbc:postgresql://h/d"]
        {
            assert!(check(url).is_err_and(|reason| reason.contains("postgresql://")), "{url}");
        }
        for url in [
            "postgresql://a,b/d",
            "postgresql://u:p@a:1,b:2/d?target_session_attrs=read-write",
            "postgresql:///d?host=a,b",
            "postgresql://h/d?port=1%2c2",
        ] {
            assert!(check(url).is_err_and(|reason| reason.contains("one host")), "{url}");
        }
    }
}
