//! What this program was built from and with.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The compiler, as it names itself.
pub const RUSTC: &str = env!("HEADWATER_RUSTC");

/// The commit, where it is known: builds for development, and from a source archive, do not know theirs.
pub fn commit() -> Option<&'static str> {
    Some(env!("HEADWATER_BUILT_COMMIT")).filter(|commit| !commit.is_empty())
}

/// One line for `headwater --version`, which puts the name of the program before.
pub fn line() -> String {
    format!("{VERSION} (commit {}, {RUSTC})", commit().unwrap_or("unknown"))
}
