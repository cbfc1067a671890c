//! Names for what has none in the code: the variants of enums with fields, which generators would number.

use serde_json::{Map, Value, json};

use super::{reference, schema_name};

/// Makes a schema of its own of every variant that has a tag, and says which tag is which.
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
            make_constant(variant);
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

/// Says that the tag is one word: as an enum of one value, generators would make a type of it.
fn make_constant(variant: &mut Value) {
    let Some(property) = tag(variant).map(|(property, _)| property) else { return };
    let parts = match variant.get("allOf") {
        Some(_) => variant["allOf"].as_array_mut().map_or(&mut [][..], Vec::as_mut_slice),
        None => std::slice::from_mut(variant),
    };
    for part in parts {
        if let Some(schema) = part.pointer_mut(&format!("/properties/{property}")) {
            *schema = constant(schema);
        }
    }
}

/// An enum of one value as that value.
pub fn constant(schema: &Value) -> Value {
    let mut constant = schema.clone();
    if let Some(values) = constant.as_object_mut().and_then(|schema| schema.remove("enum")) {
        constant["const"] = values[0].clone();
    }
    constant
}

/// What a variant of `parent` is called.
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
    parts.iter().filter_map(|part| part["properties"].as_object()).flatten().find_map(|(property, schema)| match schema
        ["enum"]
        .as_array()?
        .as_slice()
    {
        [Value::String(value)] => Some((property.clone(), value.clone())),
        _ => None,
    })
}
