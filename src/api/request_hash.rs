//! The hash that tells a repeated request from a reused `Idempotency-Key`.
//!
//! Two bodies are the same if they say the same: the order of an object's fields,
//! white space, and how a character or a number is written don't count. Numbers
//! that a float can't tell apart are compared as they are written.

use sha2::{Digest, Sha256};

type Hash = [u8; 32];

/// SHA-256 of what `json` says, and of `context`. `json` has been parsed before:
/// it is JSON, nested 127 levels at most.
pub(super) fn request_hash(context: &[u8], json: &str) -> Hash {
    let mut reader = Reader { rest: json.as_bytes() };
    tagged(b'r', [context, &reader.value()])
}

/// The hash of parts, of which each has a fixed length or is the last; `kind`
/// keeps values of different types apart.
fn tagged<T: AsRef<[u8]>>(kind: u8, parts: impl IntoIterator<Item = T>) -> Hash {
    let mut hash = Sha256::new();
    hash.update([kind]);
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// Reads valid JSON, each byte once; each value becomes its hash.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> u8 {
        let blanks = self.rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.rest = &self.rest[blanks..];
        self.rest.first().copied().unwrap_or(b']')
    }

    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    fn token(&mut self, length: usize) -> &'a [u8] {
        let (token, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        token
    }

    fn value(&mut self) -> Hash {
        match self.next() {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.string(),
            _ => self.scalar(),
        }
    }

    fn object(&mut self) -> Hash {
        let mut fields = Vec::new();
        self.skip();
        while self.next() != b'}' && !self.rest.is_empty() {
            if self.next() == b',' {
                self.skip();
                self.next();
            }
            let name = self.string();
            if self.next() == b':' {
                self.skip();
            }
            fields.push((name, self.value()));
        }
        self.skip();
        // Stable: of fields of one name, all count, in order.
        fields.sort_by_key(|(name, _)| *name);
        tagged(b'o', fields.into_iter().flat_map(|(name, value)| [name, value]))
    }

    fn array(&mut self) -> Hash {
        self.skip();
        let items = std::iter::from_fn(|| {
            if self.next() == b']' || self.rest.is_empty() {
                return None;
            }
            if self.next() == b',' {
                self.skip();
            }
            Some(self.value())
        });
        let hash = tagged(b'a', items);
        self.skip();
        hash
    }

    fn string(&mut self) -> Hash {
        let mut escaped = false;
        let ends = |byte: &u8| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        };
        let length = self.rest.iter().skip(1).position(ends).map_or(self.rest.len(), |end| end + 2);
        let token = self.token(length);
        match serde_json::from_slice::<String>(token) {
            Ok(text) => tagged(b's', [text.as_bytes()]),
            Err(_) => tagged(b'?', [token]),
        }
    }

    fn scalar(&mut self) -> Hash {
        /// Digits that a float holds exactly.
        const EXACT: usize = 15;
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
        let length = self.rest.iter().position(ends).unwrap_or(self.rest.len());
        let token = self.token(length.max(1));
        let number = std::str::from_utf8(token).ok().and_then(|text| text.parse::<f64>().ok());
        match number {
            Some(number) if token.len() <= EXACT => {
                tagged(b'n', [(number + 0.0).to_bits().to_be_bytes()])
            }
            _ => tagged(b'l', [token]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn hash(json: &str) -> Hash {
        request_hash(b"", json)
    }

    #[test]
    fn a_body_has_the_hash_that_other_versions_gave_it() {
        let json =
            r#"{"content":"é\n","stop":["a","b"],"seed":null,"temperature":0.5,"tools":[{},[]]}"#;
        let hash = request_hash(b"context", json);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "46d35666ad2d1f885c1fb23f9b39f20a1218e3b5f0443bafe3b8c334d99df388");
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let same = [
            (r#"{"a":1,"b":[true,null]}"#, " { \"b\" : [ true , null ] ,\n\"a\" : 1.0 } "),
            (r#"{"a":{"x":"é","y":"\""}}"#, r#"{"a":{"y":"\u0022","x":"\u00e9"}}"#),
            ("[1e2, -0]", "[100,0]"),
            ("{}", "{ }"),
            ("[]", "[ ]"),
        ];
        for (one, other) in same {
            assert_eq!(hash(one), hash(other), "{one} {other}");
        }
    }

    #[test]
    fn what_says_something_else_is_another() {
        let different = [
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"b":1}"#,
            r#"{"a":[1]}"#,
            r#"{"a":1,"b":1}"#,
            "[1]",
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            "[1,2]",
            "[2,1]",
            "[12]",
            r#"["1","2"]"#,
            r#"["1,2"]"#,
            "null",
            "true",
            "\"null\"",
            r#"{"a":{"b":1}}"#,
            r#"{"a":{},"b":1}"#,
            "[12345678901234567890123]",
            "[12345678901234567890124]",
            "[1.0000000000000001]",
        ];
        for (n, one) in different.iter().enumerate() {
            for other in &different[n + 1..] {
                assert_ne!(hash(one), hash(other), "{one} {other}");
            }
        }
        assert_ne!(request_hash(b"x", "1"), request_hash(b"y", "1"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\\\\"{}\\[\\],: ]{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::hash_map("[a-c\\\\\"]{0,3}", inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// The same value, its objects' fields the other way round.
    fn turned(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(turned).collect(),
            Value::Object(fields) => Value::Object(
                fields.iter().rev().map(|(name, value)| (name.clone(), turned(value))).collect(),
            ),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn two_bodies_have_one_hash_where_they_are_equal(one in any_json(), other in any_json()) {
            let pretty = serde_json::to_string_pretty(&turned(&one)).expect("JSON");
            prop_assert_eq!(hash(&one.to_string()), hash(&pretty));
            prop_assert_eq!(hash(&one.to_string()) == hash(&other.to_string()), one == other);
        }

        #[test]
        fn any_text_ends(text in "[{}\\[\\],:\"\\\\ 1tn]{0,40}") {
            hash(&text);
        }
    }
}
