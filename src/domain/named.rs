//! An enum that is written by its name alone. What serde derives takes `{"name": null}` too, and of a value that is no
//! text it does not say which names there are.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IntoDeserializer};
use serde_json::Value;

pub fn named<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    by_name(&Value::deserialize(deserializer)?)
}

/// Null is none.
pub fn named_if_any<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<Value>::deserialize(deserializer)?.map(|given| by_name(&given)).transpose()
}

/// Nothing is called by the empty name, so that what is no text is refused as an unknown name is.
fn by_name<T: DeserializeOwned, E: serde::de::Error>(given: &Value) -> Result<T, E> {
    T::deserialize(given.as_str().unwrap_or_default().into_deserializer())
}
