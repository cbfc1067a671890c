//! A setting as it is in effect.

/// A setting of the running service, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingInEffect {
    /// Its long name, without the dashes.
    pub name: String,
    /// As it was written; `None` where nothing is set.
    pub value: Option<String>,
    /// A value is set that is not told to anybody.
    pub is_hidden: bool,
    /// It has its default, or there is none and nothing is set.
    pub is_default: bool,
}
