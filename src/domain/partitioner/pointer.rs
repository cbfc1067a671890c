//! JSON pointers (RFC 6901): the value that one points to.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

/// The longest JSON pointer, in bytes.
const POINTER_BYTES_MAX: usize = 1_000;

/// The value at a path, exactly as the JSON text has it.
pub(super) fn find<'a>(json: &'a str, path: &[String]) -> Option<&'a str> {
    let mut at = json;
    for step in path {
        let value: &RawValue = if at.starts_with('[') {
            let is_index = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
            let index: usize = step.parse().ok().filter(|_| is_index)?;
            serde_json::from_str::<Vec<&RawValue>>(at).ok()?.get(index).copied()?
        } else {
            serde_json::from_str::<HashMap<Cow<'a, str>, &RawValue>>(at).ok()?.get(step.as_str()).copied()?
        };
        at = value.get();
    }
    Some(at)
}

/// The steps of a JSON pointer (RFC 6901).
pub(super) fn read_pointer(pointer: &str) -> Result<Vec<String>, String> {
    if pointer.len() > POINTER_BYTES_MAX {
        return Err(format!("must be at most {POINTER_BYTES_MAX} bytes"));
    }
    if pointer.contains('\0') {
        return Err("must not contain the character U+0000: PostgreSQL cannot store it".into());
    }
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(steps) = pointer.strip_prefix('/') else {
        return Err("must be empty or begin with `/` (RFC 6901)".into());
    };
    steps
        .split('/')
        .map(|step| {
            let after_tildes = step.split('~').skip(1);
            if after_tildes.clone().any(|rest| !rest.starts_with(['0', '1'])) {
                return Err("must write `~` as `~0` and `/` in a name as `~1` (RFC 6901)".into());
            }
            Ok(step.replace("~1", "/").replace("~0", "~"))
        })
        .collect()
}
