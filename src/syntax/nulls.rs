//! `null` as kubectl reads it: a field that is null is one that is not there.

use serde_json::Value;

/// Maps of text to text: a key stays, and its null is empty text, as Go decodes it. Without
/// the key a selector would choose more than it says.
const TEXT_MAPS: [&str; 4] = ["labels", "annotations", "selector", "matchLabels"];

/// Removes fields that are null. Entries of lists stay: a null there is no port and no address.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::Object(texts) if TEXT_MAPS.contains(&name.as_str()) => {
                        for text in texts.values_mut().filter(|text| text.is_null()) {
                            *text = Value::String(String::new());
                        }
                        drop_nulls(value);
                    }
                    Value::Object(_) | Value::Array(_) => drop_nulls(value),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_fields_are_absent_at_any_depth_and_null_labels_are_empty() {
        let mut value = json!({
            "status": null,
            "spec": {"ports": [{"port": 80, "name": null}, null], "selector": {"app": null}},
            "metadata": {"labels": null},
        });
        drop_nulls(&mut value);
        let expected = json!({
            "spec": {"ports": [{"port": 80}, null], "selector": {"app": ""}},
            "metadata": {},
        });
        assert_eq!(value, expected);
    }
}
