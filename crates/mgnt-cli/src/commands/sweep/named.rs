//! The file of `--strategies`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use mgnt_decode::Strategy;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// Strategies by their names: at least one, and none of a name twice, of which a map would keep the last alone.
pub(super) struct Named(pub(super) BTreeMap<String, Strategy>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from names to strategies")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Named, A::Error> {
        let mut named = BTreeMap::new();
        while let Some((name, strategy)) = pairs.next_entry()? {
            match named.entry(name) {
                Entry::Vacant(place) => place.insert(strategy),
                Entry::Occupied(place) => {
                    return Err(A::Error::custom(format!("two strategies are named `{}`", place.key())));
                }
            };
        }
        if named.is_empty() {
            return Err(A::Error::custom("expected one strategy at least, got none"));
        }
        Ok(Named(named))
    }
}

#[cfg(test)]
mod tests {
    use mgnt_weights::directory::parse_ron;

    use super::*;

    #[test]
    fn every_strategy_has_a_name_of_its_own() {
        let read = |text: &str| parse_ron::<Named>(text, "s.ron".as_ref()).map_err(|error| error.to_string());
        let two = read("{\"a\": (models: \"1x4\"), \"b\": (models: \"1x4\", cache: off)}").unwrap().0;
        assert_eq!(two.keys().collect::<Vec<_>>(), ["a", "b"]);
        for (text, part) in [
            ("{\n\"a\": (models: \"1x4\"),\n\"a\": (models: \"4x4\"),\n}", "two strategies are named `a`"),
            ("{}", "one strategy at least"),
            ("{\"a\": (models: \"1x4\", cahce: off)}", "cahce"),
        ] {
            let Err(error) = read(text) else { panic!("{text}: read") };
            assert!(error.contains("s.ron: line") && error.contains(part), "{error}");
        }
    }
}
