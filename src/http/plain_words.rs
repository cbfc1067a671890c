//! Puts serde's errors into plain words for the client: the field, and the rule that it breaks.
//!
//! serde gives the path, the place in the text and the kind of the error; only its text has the rule that was broken. A
//! text that is not known here becomes [`WRONG_FORM`], so that no name of a Rust type leaves the service.

use serde_json::error::Category;
use serde_path_to_error::{Error, Segment};

use crate::domain::Violation;

const WRONG_FORM: &str = "has the wrong form";
const WHOLE_NUMBER: &str = "must be a whole number";

/// What is wrong with a JSON text that begins on this line of the body.
pub fn of_json(error: Error<serde_json::Error>, first_line: usize) -> Violation {
    let path = error.path().to_string();
    let around = if path == "." || path == "?" { "" } else { &path };
    let error = error.into_inner();
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    let message = match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => {
            format!("is not valid JSON: {}line {}, column {column}", reason(text), first_line - 1 + line)
        }
        Category::Data => rule(text),
    };
    Violation::new(field(around, text, "body"), message)
}

/// What is wrong with the query.
pub fn of_query(error: Error<serde_html_form::de::Error>, query: &str) -> Violation {
    // Each value of a parameter that may be given several times has the parameter's name.
    let around = match error.path().iter().next() {
        Some(Segment::Map { key }) => key.clone(),
        _ => String::new(),
    };
    let text = error.into_inner().to_string();
    let field = field(&around, &text, "query");
    let given = query.split('&').find_map(|pair| pair.strip_prefix(&field)?.strip_prefix('='));
    let message = match text.as_str() {
        "unsupported value" => "must be given once".to_owned(),
        _ if text.starts_with("invalid type: sequence") => "must be given once".to_owned(),
        "invalid digit found in string" if given.is_some_and(|given| given.parse::<i128>().is_ok()) => {
            format!("{WHOLE_NUMBER} of 0 or more")
        }
        _ => rule(&text),
    };
    Violation::new(field, message)
}

/// The field that an error is about. A field that is missing, unknown or given twice is named in the text; `around`, the
/// path, may end at the object around it.
fn field(around: &str, text: &str, whole: &str) -> String {
    match named(text) {
        Some(name) if around.is_empty() => name.to_owned(),
        Some(name) if around == name || around.ends_with(&format!(".{name}")) => around.to_owned(),
        Some(name) => format!("{around}.{name}"),
        None if around.is_empty() => whole.to_owned(),
        None => around.to_owned(),
    }
}

/// The field that a text names. The name may have any text in it, so its end is looked for from the right.
fn named(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("unknown field `").map(|rest| {
        let end = rest.rfind("`, expected ").or_else(|| rest.rfind("`, there are no fields"));
        &rest[..end.unwrap_or(rest.len())]
    });
    let until_end = |start: &str| text.strip_prefix(start)?.strip_suffix('`');
    rest.or_else(|| until_end("missing field `")).or_else(|| until_end("duplicate field `"))
}

/// Why a text is no JSON, if that helps more than the place alone.
fn reason(text: &str) -> &'static str {
    match text {
        "number out of range" => "a number is out of range, ",
        "recursion limit exceeded" => "it nests too deep, ",
        _ if text.starts_with("EOF") => "it ends too early, ",
        _ => "",
    }
}

fn rule(text: &str) -> String {
    // From the right: the value that was given comes before, and may have the same words in it.
    let (found, wanted) = text.rsplit_once(", expected ").unwrap_or((text, ""));
    let begins = |start: &str| found.starts_with(start);
    match found {
        // Rules of this service, which serde only passes on.
        _ if text.starts_with("must ") => text.to_owned(),
        _ if begins("missing field ") => "is missing".to_owned(),
        _ if begins("duplicate field ") => "is given twice".to_owned(),
        _ if begins("unknown field ") && wanted.is_empty() => "is unknown".to_owned(),
        _ if begins("unknown field ") => format!("is unknown; must be {}", names(wanted)),
        _ if begins("unknown variant ") => format!("must be {}", names(wanted)),
        _ if begins("invalid type: ") || begins("invalid value: ") || begins("invalid length ") => shape(found, wanted),
        "invalid digit found in string" | "cannot parse integer from empty string" => WHOLE_NUMBER.to_owned(),
        "number too large to fit in target type" => "is too large a number".to_owned(),
        "number too small to fit in target type" => "is too small a number".to_owned(),
        _ if begins("UUID parsing failed") => "must be a UUID".to_owned(),
        _ => WRONG_FORM.to_owned(),
    }
}

/// The names in serde's list, where each is between backticks.
fn names(wanted: &str) -> String {
    let names: Vec<&str> = wanted.split('`').skip(1).step_by(2).collect();
    match wanted.strip_prefix("one of ") {
        Some(_) => format!("one of {}", names.join(", ")),
        None => names.join(" or "),
    }
}

fn shape(found: &str, wanted: &str) -> String {
    let (min, max): (i128, i128) = match wanted {
        "i64" => (i64::MIN.into(), i64::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "u64" => (0, u64::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "a boolean" => return "must be true or false".to_owned(),
        "a string" | "a borrowed string" => return "must be text".to_owned(),
        "an object" | "a map" => return "must be an object".to_owned(),
        "a sequence" => return "must be a list".to_owned(),
        // Rules of this service.
        _ if wanted.starts_with("must ") => return wanted.to_owned(),
        _ if wanted.starts_with("struct ") => return "must be an object".to_owned(),
        _ if wanted.contains("UUID") => return "must be a UUID".to_owned(),
        _ => return WRONG_FORM.to_owned(),
    };
    let is_number = found.contains(": integer `") || found.contains(": floating point `");
    let given = found.split('`').nth(1).filter(|_| is_number).and_then(|given| given.parse::<f64>().ok());
    match given {
        Some(given) if given < min as f64 || given >= max as f64 => {
            format!("{WHOLE_NUMBER} from {min} to {max}")
        }
        Some(given) if given.fract() == 0.0 => format!("{WHOLE_NUMBER}, written without a point or an exponent"),
        _ => WHOLE_NUMBER.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_of_serdes_has_a_plain_one() {
        for (text, plain) in [
            ("missing field `messages`", "is missing"),
            ("duplicate field `type`", "is given twice"),
            ("unknown field `x`, there are no fields", "is unknown"),
            ("unknown field `x`, expected `a` or `b`", "is unknown; must be a or b"),
            ("unknown field `x`, expected `a`, expected one of `b`, `c`", "is unknown; must be one of b, c"),
            ("unknown variant `x`, expected `forward` or `backward`", "must be forward or backward"),
            ("unknown variant ``, expected one of `retry`, `park`, `skip`", "must be one of retry, park, skip"),
            ("invalid type: string \"x, expected u64\", expected i64", WHOLE_NUMBER),
            ("invalid type: null, expected a boolean", "must be true or false"),
            ("invalid type: map, expected a sequence", "must be a list"),
            ("invalid type: sequence, expected a string", "must be text"),
            ("invalid length 0, expected struct Given with 6 elements", "must be an object"),
            ("invalid value: integer `-1`, expected u64", "must be a whole number from 0 to 18446744073709551615"),
            (
                "invalid value: integer `3000000000`, expected i32",
                "must be a whole number from -2147483648 to 2147483647",
            ),
            ("invalid type: floating point `1.5`, expected i64", WHOLE_NUMBER),
            (
                "invalid type: floating point `100.0`, expected i64",
                "must be a whole number, written without a point or an exponent",
            ),
            ("number too large to fit in target type", "is too large a number"),
            ("must be beginning or end", "must be beginning or end"),
            ("invalid type: sequence, expected must be beginning or end", "must be beginning or end"),
            ("data did not match any variant of untagged enum FromBody", WRONG_FORM),
            ("invalid type: unit variant, expected internally tagged enum Partitioner", WRONG_FORM),
            ("whatever comes next", WRONG_FORM),
        ] {
            assert_eq!(rule(text), plain, "{text}");
        }
    }

    #[test]
    fn a_field_is_named_whatever_its_name_holds() {
        assert_eq!(named("unknown field `a`, expected `b`, expected `c` or `d`"), Some("a`, expected `b"));
        assert_eq!(named("unknown field `a`, there are no fields"), Some("a"));
        assert_eq!(named("missing field `a`"), Some("a"));
        assert_eq!(named("invalid type: null, expected a string"), None);
    }
}
