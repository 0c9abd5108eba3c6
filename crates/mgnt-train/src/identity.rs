//! What makes two runs the same: recipe and data.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::Error;

/// Fields that change no weight, so that a resumed run may have others.
const FREE: [&str; 6] = [
    "recipe.optimization.log_every",
    "recipe.optimization.checkpoint_every",
    "recipe.optimization.keep",
    "recipe.optimization.draw_every",
    "recipe.optimization.not_finite_limit",
    "recipe.optimization.gradient_checkpointing",
];

/// Fields that older versions did not have, with what a run without them did.
const ADDED: [(&str, &str); 1] = [("recipe.trained", "\"whole\"")];

/// Recipe and data of a run, field by field: values as JSON text, since reading a number back may round it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity(BTreeMap<String, String>);

/// The first field in which two identities differ.
#[derive(Debug, PartialEq)]
pub(crate) struct Difference {
    pub field: String,
    pub before: String,
    pub now: String,
}

impl Identity {
    /// Of a recipe and the checksums of its data.
    pub fn new(recipe: &impl Serialize, data: &BTreeMap<String, String>) -> Result<Self, Error> {
        let value = |v: Result<Value, serde_json::Error>| v.map_err(|e| Error::run("recipe", e));
        let mut fields = BTreeMap::new();
        flatten("recipe", value(serde_json::to_value(recipe))?, &mut fields);
        flatten("data", value(serde_json::to_value(data))?, &mut fields);
        Ok(Self(fields))
    }

    /// Of the text of a `run.json`; `None` where it is none. Says the same of runs only as one that was read from text, too.
    pub fn of_run(text: &str) -> Option<Self> {
        let fields = serde_json::from_str::<serde_json::Map<String, Value>>(text).ok()?;
        let mut flat = BTreeMap::new();
        fields.into_iter().for_each(|(name, value)| flatten(&name, value, &mut flat));
        Some(Self(flat))
    }

    /// As it is kept in checkpoints.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(&self.0).map_err(|e| Error::run("recipe", e))
    }

    /// Reads what [`Self::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// Where a run of identity `before` cannot go on as this one: the first field that differs.
    pub fn difference<'a>(&'a self, before: &'a Self) -> Option<Difference> {
        let fields = before.0.keys().chain(self.0.keys());
        let value = |identity: &'a Self, field: &str| -> Option<&'a str> {
            let added = || ADDED.iter().find(|(added, _)| *added == field).map(|(_, value)| *value);
            identity.0.get(field).map(String::as_str).or_else(added)
        };
        let differing = fields
            .into_iter()
            .find(|&field| !FREE.contains(&field.as_str()) && value(before, field) != value(self, field));
        let shown = |fields: &BTreeMap<String, String>, field: &str| match fields.get(field) {
            Some(value) => value.clone(),
            None => "nothing".into(),
        };
        differing.map(|field| Difference {
            field: field.clone(),
            before: shown(&before.0, field),
            now: shown(&self.0, field),
        })
    }
}

fn flatten(name: &str, value: Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                flatten(&format!("{name}.{field}"), value, into);
            }
        }
        value => {
            into.insert(name.into(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(recipe: Value, sha256: &str) -> Identity {
        Identity::new(&recipe, &BTreeMap::from([("train".into(), sha256.into())])).unwrap()
    }

    #[test]
    fn the_field_that_differs_is_named() {
        let before = identity(json!({"optimization": {"seed": 1, "keep": 2}, "width": 8}), "a");
        let same = identity(json!({"optimization": {"seed": 1, "keep": 3}, "width": 8}), "a");
        assert_eq!(same.difference(&before), None);
        for (now, field, shown) in [
            (
                json!({"optimization": {"seed": 2, "keep": 2}, "width": 8}),
                "recipe.optimization.seed",
                ("1", "2"),
            ),
            (json!({"optimization": {"seed": 1, "keep": 2}}), "recipe.width", ("8", "nothing")),
            (
                json!({"optimization": {"seed": 1, "keep": 2}, "width": 8, "x": []}),
                "recipe.x",
                ("nothing", "[]"),
            ),
        ] {
            let difference = identity(now, "a").difference(&before).unwrap();
            assert_eq!((difference.field.as_str(), (&*difference.before, &*difference.now)), (field, shown));
        }
        let less_memory =
            json!({"optimization": {"seed": 1, "keep": 2, "gradient_checkpointing": true}, "width": 8});
        assert_eq!(identity(less_memory, "a").difference(&before), None);
        // Of a version that trained nothing but whole tokenizers.
        let older = identity(json!({"width": 8}), "a");
        assert_eq!(identity(json!({"width": 8, "trained": "whole"}), "a").difference(&older), None);
        let decoder = identity(json!({"width": 8, "trained": "decoder"}), "a");
        assert_eq!(decoder.difference(&older).unwrap().field, "recipe.trained");
        let other = identity(json!({"optimization": {"seed": 1, "keep": 2}, "width": 8}), "b");
        assert_eq!(other.difference(&before).unwrap().field, "data.train");
        let third = identity(json!({"x": 1.0f32 / 3.0}), "a");
        assert_eq!(Identity::from_json(&third.to_json().unwrap()).unwrap(), third);
    }
}
