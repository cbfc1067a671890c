//! The settings in effect over HTTP.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Query;
use super::pages::NoQuery;
use super::problem::Problem;
use super::{App, tags};

/// The settings of this instance, by name.
#[derive(Serialize, ToSchema)]
pub struct SettingsReport {
    settings: Vec<ReportedSetting>,
}

/// A setting in effect.
#[derive(Serialize, ToSchema)]
pub struct ReportedSetting {
    #[schema(example = "log")]
    name: String,
    /// As it was written: by a flag, a variable or the file, or its default. Null where nothing is set, and where `is_hidden`.
    #[schema(required = true, example = "info")]
    value: Option<String>,
    /// True: there is a value, and it is not told, because there may be a password in it.
    is_hidden: bool,
    is_default: bool,
}

/// Read the settings in effect
///
/// Of the instance that answers, as it read them when it started. What files have that settings name is not told.
#[utoipa::path(
    get, path = "/v1/settings", operation_id = "readSettings", tag = tags::OPERATIONS,
    responses((status = 200, body = SettingsReport)),
)]
pub async fn read(
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<axum::Json<SettingsReport>, Problem> {
    let settings = app.settings_in_effect.iter().map(|setting| ReportedSetting {
        name: setting.name.clone(),
        value: setting.value.clone(),
        is_hidden: setting.is_hidden,
        is_default: setting.is_default,
    });
    Ok(axum::Json(SettingsReport { settings: settings.collect() }))
}
