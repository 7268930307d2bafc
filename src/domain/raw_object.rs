//! JSON as it was written: the order of fields, the digits of numbers, white space.
//!
//! A schema's order of properties steers what a model writes first, and a float
//! can't hold every integer. So what is passed on to models is never taken apart.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// A JSON object of which only the names are looked at.
#[derive(Debug, Clone, Default)]
pub struct RawObject(Vec<(String, Box<RawValue>)>);

impl RawObject {
    /// The fields, in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// Bytes of names and values, about those of the text.
    pub fn text_len(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.get().len()).sum()
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.iter().find_map(|(field, value)| (field == name).then_some(value))
    }

    /// Puts a value in a field's place, or at the end. A value that has no JSON is
    /// `null`.
    pub fn set(&mut self, name: &str, value: &impl Serialize) {
        let value = to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned());
        match self.0.iter_mut().find(|(field, _)| field == name) {
            Some((_, before)) => *before = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Gives a field another name. Where there is a field of that name already, that
    /// one stays, and this one goes.
    pub fn rename(&mut self, from: &str, to: &str) {
        if self.get(to).is_some() {
            self.0.retain(|(field, _)| field != from);
        }
        for (field, _) in self.0.iter_mut().filter(|(field, _)| field == from) {
            to.clone_into(field);
        }
    }

    /// The fields that `keep` is true for.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str, &RawValue) -> bool) -> Self {
        let kept = self.0.iter().filter(|(name, value)| keep(name, value));
        Self(kept.cloned().collect())
    }

    /// The JSON text.
    pub fn to_json(&self) -> String {
        super::event::json(self)
    }
}

/// The same text, field by field.
impl PartialEq for RawObject {
    fn eq(&self, other: &Self) -> bool {
        let text = |object: &Self| {
            let text = |(name, value): (&str, &RawValue)| (name.to_owned(), value.get().to_owned());
            object.iter().map(text).collect::<Vec<_>>()
        };
        text(self) == text(other)
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = RawObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
                let mut names = HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, _>()? {
                    // Which of two counts, each reader would decide for itself.
                    if !names.insert(name.clone()) {
                        let name = super::quoted(&name);
                        return Err(A::Error::custom(format_args!(
                            "the field {name} stands there twice"
                        )));
                    }
                    fields.push((name, value));
                }
                Ok(RawObject(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_written_as_it_was_read() {
        let text = r#"{"z":1.50,"a":{"y" : 12345678901234567890123,"x":[1e2, "é"]},"b":null}"#;
        let object: RawObject = serde_json::from_str(text).expect("an object");
        assert_eq!(object.to_json(), text);
        assert_eq!(object.get("z").map(RawValue::get), Some("1.50"));
        assert!(object.get("y").is_none());
    }

    #[test]
    fn a_field_that_is_set_keeps_its_place() {
        let mut object: RawObject = serde_json::from_str(r#"{"b":1,"a":2}"#).expect("an object");
        object.set("b", &true);
        object.set("c", &"x");
        assert_eq!(object.to_json(), r#"{"b":true,"a":2,"c":"x"}"#);
        object.rename("c", "d");
        object.rename("d", "a");
        object.rename("x", "a");
        assert_eq!(object.to_json(), r#"{"b":true,"a":2}"#);
        let numbers = object.filtered(|_, value| value.get() == "2");
        assert_eq!(numbers.to_json(), r#"{"a":2}"#);
    }

    #[test]
    fn only_an_object_whose_fields_stand_there_once_is_one() {
        for other in ["[]", "1", "null", "\"a\"", "", r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(serde_json::from_str::<RawObject>(other).is_err(), "{other}");
        }
    }
}
