//! RESP3 as the tail needs it: where a reply ends, and the entries of an
//! `XREAD`, without a tree of values in between.
//!
//! redis-rs parses every reply into values, nine for an entry of ours, each an
//! allocation: two fifths of the instructions that a token cost an API. See
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use bytes::Bytes;
use memchr::memchr;

use super::Entry;
use super::entry::{EventFields, Page};

/// Redis' own bound of a string (`proto-max-bulk-len`), and ours of how many
/// values one may hold.
const MAX: i64 = 512 * 1024 * 1024;
/// Bytes of a line, at most: lengths, numbers, and errors, which may have text
/// of a user's.
const MAX_LINE: usize = 1024 * 1024;

/// These are no replies of Redis'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply is no RESP3")]
pub(super) struct Malformed;

/// Finds the end of a reply in bytes that come piece by piece.
#[derive(Debug)]
pub(super) struct Scanner {
    /// So far, all is known.
    scanned: usize,
    /// Values that are still to come.
    missing: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { scanned: 0, missing: 1 }
    }
}

impl Scanner {
    /// How long the reply is that `bytes` begin with, once all of it is there;
    /// until then, to be called again when there are more. Then begins anew.
    ///
    /// # Errors
    /// When it is not RESP3.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        while self.missing > 0 {
            let rest = &bytes[self.scanned..];
            if let Some((line, length)) = bulk_header(rest) {
                let end = self.scanned + line + length + 2;
                if end > bytes.len() {
                    return Ok(None);
                }
                self.scanned = end;
                self.missing -= 1;
                continue;
            }
            let Some(line) = line(rest)? else { return Ok(None) };
            let next = self.scanned + line.len() + 2;
            let length = || number(&line[1..]).filter(|n| *n <= MAX).ok_or(Malformed);
            let (end, more) = match line[0] {
                b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => (next, 0),
                b'$' | b'!' | b'=' => match usize::try_from(length()?) {
                    Ok(length) => (next + length + 2, 0),
                    Err(_) => (next, 0),
                },
                b'*' | b'~' | b'>' => (next, usize::try_from(length()?).unwrap_or(0)),
                b'%' => (next, 2 * usize::try_from(length()?).unwrap_or(0)),
                // Attributes come before the value that they belong to.
                b'|' => (next, 1 + 2 * usize::try_from(length()?).unwrap_or(0)),
                _ => return Err(Malformed),
            };
            if end > bytes.len() {
                return Ok(None);
            }
            self.scanned = end;
            self.missing = (self.missing - 1).saturating_add(more);
        }
        let length = self.scanned;
        *self = Self::default();
        Ok(Some(length))
    }
}

/// The header of a string of less than 10 million bytes, which nearly all values
/// are: how long its line is, with the end, and how long the string. Nothing of
/// anything else, and where it isn't all there.
fn bulk_header(bytes: &[u8]) -> Option<(usize, usize)> {
    const DIGITS: usize = 7;
    let (mut at, mut length) = (1, 0);
    if bytes.first() != Some(&b'$') {
        return None;
    }
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        length = length * 10 + usize::from(digit - b'0');
        at += 1;
        if at > DIGITS + 1 {
            return None;
        }
    }
    let ends = at > 1 && bytes.get(at) == Some(&b'\r') && bytes.get(at + 1) == Some(&b'\n');
    ends.then_some((at + 2, length))
}

/// The first line, without its end; nothing if it isn't all there.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match memchr(b'\r', bytes) {
        Some(0) => Err(Malformed),
        Some(end) if end < MAX_LINE => match bytes.get(end + 1) {
            Some(b'\n') => Ok(Some(&bytes[..end])),
            Some(_) => Err(Malformed),
            None => Ok(None),
        },
        None if bytes.len() < MAX_LINE => Ok(None),
        _ => Err(Malformed),
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A reply that is there as a whole, read value by value. Nothing where
/// something else comes than is asked for.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The length of what begins here.
    fn head(&mut self, kind: u8) -> Option<usize> {
        let line = line(self.0).ok()??;
        let length = line.strip_prefix(&[kind]).and_then(number)?;
        self.0 = &self.0[line.len() + 2..];
        usize::try_from(length).ok()
    }

    fn bulk(&mut self) -> Option<&'a [u8]> {
        let length = match bulk_header(self.0) {
            Some((line, length)) => {
                self.0 = &self.0[line..];
                length
            }
            None => self.head(b'$')?,
        };
        let (bulk, rest) = self.0.split_at_checked(length)?;
        self.0 = rest.get(2..)?;
        Some(bulk)
    }

    fn skip(&mut self) -> Option<()> {
        let length = Scanner::default().scan(self.0).ok()??;
        self.0 = &self.0[length..];
        Some(())
    }

    /// What `read` makes of the next value; or nothing, and the value is passed
    /// over.
    fn try_read<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.0;
        let value = read(self);
        if value.is_none() {
            self.0 = before;
            self.skip();
        }
        value
    }
}

/// The payload of a published message.
pub(super) fn message(push: &[u8]) -> Option<&[u8]> {
    let mut values = Values(push);
    let (3, b"message") = (values.head(b'>')?, values.bulk()?) else { return None };
    values.bulk()?;
    values.bulk()
}

/// The streams of an `XREAD`'s reply: each key, and what was read of it. What
/// is no event of a task's stream is left out, as by [`super::entry::pages`].
pub(super) fn pages(reply: &Bytes) -> Vec<(Bytes, Page)> {
    let mut values = Values(reply);
    let count = values.head(b'%').unwrap_or(0);
    (0..count).map_while(|_| Some((reply.slice_ref(values.bulk()?), page(&mut values)?))).collect()
}

fn page(values: &mut Values<'_>) -> Option<Page> {
    let before = values.0.len();
    let count = values.head(b'*')?;
    let mut page = Page { entries: Vec::with_capacity(count.min(1024)), ..Page::default() };
    for _ in 0..count {
        let Some((id, entry)) = values.try_read(entry) else { continue };
        page.len += 1;
        page.last = id;
        page.entries.extend(entry);
    }
    page.bytes = before - values.0.len();
    Some(page)
}

/// An entry's ID, if it is one of ours, and the event that it is.
fn entry(values: &mut Values<'_>) -> Option<(Option<crate::domain::EventId>, Option<Entry>)> {
    let (2, id) = (values.head(b'*')?, values.bulk()?) else { return None };
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    let fields = values.head(b'*')?;
    let mut event = EventFields::default();
    for _ in 0..fields / 2 {
        event.take(values.bulk()?, values.bulk()?);
    }
    // Copied, as a slice would keep all of the reply for as long as a reader is
    // slow.
    Some((id, id.and_then(|id| event.event(id, Bytes::copy_from_slice))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::parse_redis_value;

    use super::super::entry;
    use super::*;

    /// Replies of every kind that Redis has, as they are sent.
    fn any_reply() -> impl Strategy<Value = Vec<u8>> {
        let text = || proptest::collection::vec(any::<u8>(), 0..20);
        let bulk = |kind: char| {
            text().prop_map(move |text| {
                [format!("{kind}{}\r\n", text.len()).as_bytes(), &text, b"\r\n"].concat()
            })
        };
        let scalar = prop_oneof![
            4 => bulk('$'),
            1 => Just(b"=7\r\ntxt:abc\r\n".to_vec()),
            4 => prop::sample::select(vec![
                "+OK\r\n", ":1\r\n", ":-7\r\n", "_\r\n", "$-1\r\n", "*-1\r\n", "#t\r\n", ",1.5\r\n",
                "-ERR no\r\n", "!3\r\nERR\r\n", "(123\r\n", "*0\r\n", "%0\r\n", "$0\r\n\r\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ];
        scalar.prop_recursive(4, 30, 6, |inner| {
            let many = proptest::collection::vec(inner, 0..6);
            (prop::sample::select(vec!['*', '~', '%', '|']), many).prop_map(|(kind, values)| {
                let count = values.len();
                let (count, take) = match kind {
                    '%' => (count / 2, count / 2 * 2),
                    '|' if count > 0 => ((count - 1) / 2, (count - 1) / 2 * 2 + 1),
                    '|' => return b"+OK\r\n".to_vec(),
                    _ => (count, count),
                };
                [format!("{kind}{count}\r\n").into_bytes(), values[..take].concat()].concat()
            })
        })
    }

    fn bulk(text: impl AsRef<[u8]>) -> Vec<u8> {
        let text = text.as_ref();
        [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
    }

    fn array(kind: char, values: &[Vec<u8>]) -> Vec<u8> {
        let count = if kind == '%' { values.len() / 2 } else { values.len() };
        [format!("{kind}{count}\r\n").into_bytes(), values.concat()].concat()
    }

    /// An entry as it should be, or nearly so.
    fn any_entry() -> impl Strategy<Value = Vec<u8>> {
        let id = prop_oneof![4 => "[0-9]{1,3}-[0-9]{1,3}", 1 => "[0-9-]{0,4}"];
        let field = prop::sample::select(vec!["e", "e", "d", "d", "t", "o", "x"]);
        let value = prop_oneof![
            2 => Just(b"delta".to_vec()),
            1 => Just(b"snapshot".to_vec()),
            1 => Just(b"content.newer".to_vec()),
            1 => Just(b"1764230400000".to_vec()),
            2 => proptest::collection::vec(any::<u8>(), 0..30),
        ];
        let fields = proptest::collection::vec((field, value), 0..5);
        let good = (id.clone(), fields).prop_map(|(id, fields)| {
            let fields: Vec<_> =
                fields.iter().flat_map(|(field, value)| [bulk(field), bulk(value)]).collect();
            array('*', &[bulk(id), array('*', &fields)])
        });
        let deleted = id.prop_map(|id| array('*', &[bulk(id), b"_\r\n".to_vec()]));
        prop_oneof![8 => good, 1 => deleted, 1 => Just(b"_\r\n".to_vec())]
    }

    proptest! {
        #[test]
        fn a_reply_ends_where_redis_rs_says_however_it_comes(
            replies in proptest::collection::vec(any_reply(), 1..4),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let all = replies.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
            cuts.push(all.len());
            cuts.sort_unstable();
            let (mut scanner, mut from, mut found) = (Scanner::default(), 0, Vec::new());
            for cut in cuts {
                while let Some(length) = scanner.scan(&all[from..cut]).expect("RESP3") {
                    found.push(all[from..from + length].to_vec());
                    from += length;
                    if from == cut {
                        break;
                    }
                }
            }
            for reply in &found {
                prop_assert!(parse_redis_value(reply).is_ok());
            }
            prop_assert_eq!(found, replies);
        }

        #[test]
        fn an_xread_brings_the_same_entries_as_through_redis_rs(
            read in proptest::collection::vec(
                ("[a-z:{}]{0,12}", proptest::collection::vec(any_entry(), 0..6)), 0..4,
            ),
        ) {
            let read: Vec<_> = read
                .iter()
                .flat_map(|(key, entries)| [bulk(key), array('*', entries)])
                .collect();
            let reply = Bytes::from(array('%', &read));
            let theirs = entry::pages(parse_redis_value(&reply).expect("RESP3"));
            let ours = pages(&reply);
            prop_assert_eq!(ours.len(), theirs.len());
            for ((key, ours), (their_key, theirs)) in ours.into_iter().zip(theirs) {
                prop_assert_eq!(key, their_key);
                prop_assert_eq!(ours.entries, theirs.entries);
                prop_assert_eq!((ours.last, ours.len), (theirs.last, theirs.len));
            }
        }

        #[test]
        fn rubbish_is_refused_or_waited_for_and_never_panics(
            bytes in proptest::collection::vec(
                prop::sample::select(b"$*%>|:+-_!=~0129\r\nae".to_vec()), 0..60,
            ),
        ) {
            let _ = Scanner::default().scan(&bytes);
            let _ = message(&bytes);
            for (_, page) in pages(&bytes.into()) {
                prop_assert!(page.entries.len() <= page.len);
            }
        }
    }

    #[test]
    fn a_published_message_is_found() {
        let push = [bulk("message"), bulk("rill:wake"), bulk("hints\r\n")];
        assert_eq!(message(&array('>', &push)), Some(&b"hints\r\n"[..]));
        for other in [
            array('>', &[bulk("subscribe"), bulk("rill:wake"), b":1\r\n".to_vec()]),
            array('>', &[bulk("pmessage"), bulk("*"), bulk("rill:wake"), bulk("x")]),
            array('*', &push),
        ] {
            assert_eq!(message(&other), None);
        }
    }

    #[test]
    fn what_could_never_end_is_refused() {
        for odd in ["\r\n", "x\r\n", "$x\r\n", "*99999999999\r\n", "$1\ra", "+a\rb\r\n"] {
            assert_eq!(Scanner::default().scan(odd.as_bytes()), Err(Malformed), "{odd:?}");
        }
        let endless = vec![b'+'; MAX_LINE + 1];
        assert_eq!(Scanner::default().scan(&endless), Err(Malformed));
    }
}
