//! Gives names to schemas that have none in the code: variants of enums with fields, which generators would number.

use serde_json::{Map, Value, json};

use super::{reference, schema_name};

/// Makes a constant of every enum that has one value and no name of its own: generators would make a type of it.
pub fn make_constants(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    // A schema with a name may have more values one day.
    for part in schemas.values_mut().filter_map(Value::as_object_mut).flat_map(|schema| schema.values_mut()) {
        make_constants_in(part);
    }
}

fn make_constants_in(part: &mut Value) {
    match part {
        Value::Object(fields) => {
            if let Some([value]) = fields.get("enum").and_then(Value::as_array).map(Vec::as_slice) {
                let value = value.clone();
                fields.remove("enum");
                fields.insert("const".into(), value);
            }
            fields.values_mut().for_each(make_constants_in);
        }
        Value::Array(items) => items.iter_mut().for_each(make_constants_in),
        _ => {}
    }
}

/// Gives every variant that has a tag a schema of its own, and lists which tag means which.
///
/// `Partitioner` with `kind: "cel"` becomes `CelPartitioner`.
pub fn name_variants(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    let mut named = Map::new();
    for (parent, schema) in schemas.iter_mut() {
        let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) else { continue };
        let tags: Vec<_> = variants.iter().map(tag).collect();
        let mut mapping = Map::new();
        for (variant, tag) in variants.iter_mut().zip(&tags) {
            let Some((_, value)) = tag else { continue };
            let name = variant_name(parent, value);
            mapping.insert(value.clone(), reference(&name)["$ref"].clone());
            named.insert(name.clone(), std::mem::replace(variant, reference(&name)));
        }
        let property = tags.first().cloned().flatten().map(|(property, _)| property);
        let is_told_by_one = tags.iter().all(|tag| tag.as_ref().map(|(property, _)| property) == property.as_ref());
        if let Some(property) = property.filter(|_| is_told_by_one) {
            schema["discriminator"] = json!({ "propertyName": property, "mapping": mapping });
        }
    }
    schemas.extend(named);
    schemas.sort_keys();
}

/// The name for a variant of `parent`.
pub fn variant_name(parent: &str, tag: &str) -> String {
    let words = tag.split(['-', '_', ' ']).map(|word| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    });
    words.chain([parent.to_owned()]).collect()
}

/// The property that tells a variant from the others, and its value.
pub fn tag(variant: &Value) -> Option<(String, String)> {
    if schema_name(variant).is_some() {
        return None;
    }
    let parts = variant["allOf"].as_array().map_or_else(|| std::slice::from_ref(variant), Vec::as_slice);
    let properties = parts.iter().filter_map(|part| part["properties"].as_object()).flatten();
    properties.filter_map(|(property, schema)| Some((property.clone(), schema["const"].as_str()?.to_owned()))).next()
}
