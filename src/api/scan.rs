//! One pass over a body before it is understood: it is JSON, no object names a
//! field twice, and its texts can be stored.
//!
//! Of two fields of one name, serde and most servers take the last, and some the
//! first: what was judged here would not be what the model is told. U+0000 is
//! what PostgreSQL can't store.
//!
//! Nothing is built but the names of the objects that are open: a body costs what
//! its bytes cost, whatever they say.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::field_error::{FieldError, FieldErrors, Pointer};
use crate::domain::quoted;

/// Where U+0000 is, in texts and in names.
///
/// # Errors
/// Of syntax where it is no JSON; of data where a name stands there twice.
pub(super) fn scan(bytes: &[u8]) -> serde_json::Result<FieldErrors> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut scan = Scan { at: Vec::new(), errors: FieldErrors::default() };
    scan.deserialize(&mut json)?;
    json.end()?;
    Ok(scan.errors)
}

/// A step from a value to one in it.
enum Step<'de> {
    Index(usize),
    Name(Cow<'de, str>),
}

struct Scan<'de> {
    at: Vec<Step<'de>>,
    errors: FieldErrors,
}

impl Scan<'_> {
    fn error(&mut self, detail: impl FnOnce() -> String) {
        let at = &self.at;
        self.errors.add(|| {
            let mut pointer = Pointer::default();
            for step in at {
                match step {
                    Step::Index(index) => pointer.push(&index.to_string()),
                    Step::Name(name) => pointer.push(name),
                }
            }
            FieldError::new(pointer, detail())
        });
    }

    fn text(&mut self, text: &str) {
        if text.contains('\0') {
            self.error(|| "it contains U+0000; remove that character".to_owned());
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Scan<'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! passed_over {
    ($($visit:ident: $type:ty,)*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<(), E> {
            Ok(())
        })*
    };
}

impl<'de> Visitor<'de> for &mut Scan<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    passed_over!(visit_bool: bool, visit_u64: u64, visit_i64: i64, visit_f64: f64,);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            self.at.push(Step::Index(index));
            let item = items.next_element_seed(&mut *self)?;
            self.at.pop();
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key_seed(Name)? {
            if name.contains('\0') {
                self.error(|| format!("the name {} contains U+0000", quoted(&name)));
            }
            if names.contains(&name) {
                let twice = format_args!("the field {} stands there twice", quoted(&name));
                return Err(A::Error::custom(twice));
            }
            self.at.push(Step::Name(name.clone()));
            fields.next_value_seed(&mut *self)?;
            self.at.pop();
            names.insert(name);
        }
        Ok(())
    }
}

/// A field's name, borrowed unless it has escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn pointers(json: &str) -> Vec<String> {
        let errors = scan(json.as_bytes()).expect("JSON").into_parts().0;
        errors.into_iter().map(|error| error.pointer).collect()
    }

    proptest! {
        #[test]
        fn it_takes_what_serde_json_takes(text in "[\\[\\]{}:,\"ab0-9.eE+\\\\ -]{0,24}|\\{\"[ab]\":[0-9]{1,3}(,\"[cd]\":[\\[\\]]{2})?\\}") {
            let theirs = serde_json::from_str::<Value>(&text);
            match scan(text.as_bytes()) {
                Ok(_) => prop_assert!(theirs.is_ok(), "{text}"),
                Err(error) => prop_assert!(theirs.is_err() || error.is_data(), "{error}: {text}"),
            }
        }
    }

    #[test]
    fn a_name_given_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":[{"a":1,"\u0061":2}]}]"#] {
            let error = scan(text.as_bytes()).expect_err("twice");
            assert!(
                error.is_data() && error.to_string().contains("\"a\" stands there twice"),
                "{error}"
            );
        }
        assert!(scan(br#"[{"a":1},{"a":1}]"#).is_ok());
    }

    #[test]
    fn nul_is_found_in_texts_and_in_names() {
        assert_eq!(pointers(r#"{"a/b": ["x", "\u0000"], "c~": "\u0000"}"#), ["/a~1b/1", "/c~0"]);
        assert_eq!(pointers(r#"[1, {"a\u0000": {"b": "\u0000"}}]"#), ["/1", "/1/a\0/b"]);
        assert_eq!(pointers(r#"["\\u0000", "", 0, null]"#), [""; 0]);
    }

    #[test]
    fn errors_are_counted_beyond_those_that_are_kept() {
        let json = format!("[{}\"\"]", r#""\u0000","#.repeat(1_000));
        let (errors, more) = scan(json.as_bytes()).expect("JSON").into_parts();
        assert_eq!((errors.len(), more), (20, 980));
        assert_eq!(errors[19].pointer, "/19");
    }
}
