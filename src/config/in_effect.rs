//! The settings in effect, as they are told to administrators.

use clap::{ArgMatches, Command};

use crate::domain::setting::SettingInEffect;

/// The settings as they were read. `plain` is the command before the TOML file's values became its defaults.
pub(super) fn settings(plain: &Command, matches: &ArgMatches) -> Vec<SettingInEffect> {
    let settings = plain.get_arguments().filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"));
    let read = settings.filter_map(|argument| {
        let id = argument.get_id().as_str();
        let joined = |values: Vec<String>| (!values.is_empty()).then(|| values.join(","));
        let given = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        let value = joined(given.map(|value| value.to_string_lossy().into_owned()).collect());
        let default =
            joined(argument.get_default_values().iter().map(|value| value.to_string_lossy().into()).collect());
        // A password may be in it.
        let is_hidden = argument.is_hide_env_values_set() && value.is_some();
        Some(SettingInEffect {
            name: argument.get_long()?.to_owned(),
            is_default: value == default || matches.value_source(id).is_none(),
            value: value.filter(|_| !is_hidden),
            is_hidden,
        })
    });
    let mut settings: Vec<_> = read.collect();
    settings.sort_by(|a, b| a.name.cmp(&b.name));
    settings
}

/// A value came from a variable that is no variable of the setting: it is hidden too.
pub(super) fn hide(settings: &mut [SettingInEffect], name: &str) {
    if let Some(setting) = settings.iter_mut().find(|setting| setting.name == name) {
        *setting = SettingInEffect { value: None, is_hidden: true, is_default: false, ..setting.clone() };
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Cli;

    #[test]
    fn settings_are_told_as_they_are_in_effect_and_no_password_is() {
        let arguments = ["headwater", "--heartbeat", "20s", "--database-url", "postgres://me:hush@db/store"];
        let cli = Cli::read_from(arguments.map(Into::into).to_vec()).unwrap();
        let settings = cli.settings.in_effect;
        let of = |name: &str| settings.iter().find(|setting| setting.name == name).unwrap();
        assert_eq!((of("heartbeat").value.as_deref(), of("heartbeat").is_default), (Some("20s"), false));
        assert_eq!((of("wait-max").value.as_deref(), of("wait-max").is_default), (Some("60s"), true));
        assert_eq!((of("tls-key").value.as_deref(), of("tls-key").is_default), (None, true));
        assert!(of("database-url").is_hidden && !of("database-url").is_default);
        assert!(!format!("{settings:?}").contains("hush"));
    }

    #[test]
    fn a_value_of_the_file_is_no_default() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("headwater.toml");
        std::fs::write(&file, "heartbeat = '3s'\n").unwrap();
        let arguments = ["headwater", "--config", file.to_str().unwrap()];
        let settings = Cli::read_from(arguments.map(Into::into).to_vec()).unwrap().settings.in_effect;
        let heartbeat = settings.iter().find(|setting| setting.name == "heartbeat").unwrap();
        assert_eq!((heartbeat.value.as_deref(), heartbeat.is_default), (Some("3s"), false));
    }
}
