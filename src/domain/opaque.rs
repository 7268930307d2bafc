//! Data for the model's server: given back with an answer, shown to nobody else.

use serde::{Deserialize, Serialize};

/// Data that the model's server wants back with the answer, as it sent it:
/// signatures of reasoning, for instance. No reader is ever sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpaqueData {
    /// The tool call that it belongs to, by index; nothing: the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u32>,
    /// The field that it came in, such as `reasoning_details`.
    pub name: String,
    /// The field's value as JSON text: the server's bytes. Pieces of an array that
    /// came with several chunks are one. `null`: the value is the message's reasoning.
    pub json: String,
}

impl OpaqueData {
    /// Size in memory, in bytes, about.
    pub const fn size(&self) -> usize {
        /// Size beside its texts.
        const REST: usize = 64;
        self.name.len() + self.json.len() + REST
    }

    /// Takes more of the same field in: of arrays, servers send a piece with each
    /// chunk. Else it is given back.
    fn join(&mut self, more: Self) -> Result<(), Self> {
        let (Some(before), Some(after)) = (items(&self.json), items(&more.json)) else {
            return Err(more);
        };
        if self.call != more.call || self.name != more.name {
            return Err(more);
        }
        if before.is_empty() {
            self.json = more.json;
        } else if !after.is_empty() {
            self.json.truncate(self.json.trim_end().len() - "]".len());
            self.json.push(',');
            self.json.push_str(after);
            self.json.push(']');
        }
        Ok(())
    }
}

/// The text between an array's brackets.
fn items(json: &str) -> Option<&str> {
    Some(json.trim().strip_prefix('[')?.strip_suffix(']')?.trim())
}

/// Opaque data while it comes in. Part of it is worth nothing, so that all of it is
/// kept, or, where it is too much, none.
#[derive(Debug, Default)]
pub struct OpaqueCollector {
    data: Vec<OpaqueData>,
    size: usize,
}

impl OpaqueCollector {
    /// The most that is kept with an answer, in bytes.
    const MOST: usize = 1024 * 1024;

    /// Takes a piece in.
    pub fn add(&mut self, data: OpaqueData) {
        let (joined, alone) = (data.json.len(), data.size());
        // Fields of a chunk take turns: an earlier piece is not far.
        let before = self.data.iter_mut().rev().take(8);
        let before = before.into_iter().find(|b| b.call == data.call && b.name == data.name);
        let apart = match before {
            Some(before) => before.join(data).err(),
            None => Some(data),
        };
        self.size = self.size.saturating_add(if apart.is_some() { alone } else { joined });
        self.data.extend(apart);
        if self.size > Self::MOST {
            // And nothing more: the size only grows.
            self.data = Vec::new();
        }
    }

    /// The data, in the order in which it came.
    pub fn into_data(self) -> Vec<OpaqueData> {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(call: Option<u32>, json: &str) -> OpaqueData {
        OpaqueData { call, name: "reasoning_details".into(), json: json.into() }
    }

    fn collected(pieces: impl IntoIterator<Item = OpaqueData>) -> Vec<String> {
        let mut collector = OpaqueCollector::default();
        pieces.into_iter().for_each(|data| collector.add(data));
        collector.into_data().into_iter().map(|data| data.json).collect()
    }

    #[test]
    fn arrays_that_come_in_pieces_become_one_and_other_values_stay_apart() {
        let pieces = ["[{\"a\":1.50}]", " [2, 3] ", "[\n]", "{}", "[ ]", "[4]", "[]"];
        let pieces = pieces.map(|json| data(None, json));
        let kept = collected(pieces.into_iter().chain([data(Some(0), "[5]")]));
        assert_eq!(kept, ["[{\"a\":1.50},2, 3]", "{}", "[4]", "[5]"]);
    }

    #[test]
    fn too_much_opaque_data_is_none() {
        let half = format!("[\"{}\"]", "x".repeat(OpaqueCollector::MOST / 2 - 128));
        assert_eq!(collected([data(None, &half), data(None, &half)]).len(), 1);
        assert!(collected(vec![data(None, &half); 3]).is_empty());
        assert!(
            collected([data(None, &half), data(None, &half), data(None, &half), data(None, "[1]")])
                .is_empty()
        );
    }

    #[test]
    fn many_small_pieces_are_bounded_by_what_they_take() {
        let apart = (0..100_000).map(|call| data(Some(call), "1"));
        assert!(collected(apart).is_empty());
        assert!(collected((0..100_000).map(|_| data(None, "1"))).is_empty());
        let joined = collected((0..100_000).map(|_| data(None, "[1]")));
        assert_eq!(joined, [format!("[{}]", vec!["1"; 100_000].join(","))]);
    }
}
