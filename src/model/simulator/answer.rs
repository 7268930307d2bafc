//! What an answer consists of, before it has a wire format or a speed.

use std::borrow::Cow;
use std::iter::Peekable;

use super::directives::Script;
use super::text::{self, Random};

/// Tokens of an echoed text, unless the prompt says otherwise: a token is
/// about four characters.
const ECHO_CHUNK: usize = 4;

/// What goes into one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Reasoning(Cow<'static, str>),
    Text(Cow<'static, str>),
    /// Text: this number, and the time at which the chunk is written. Not made
    /// earlier: a piece waits for its turn.
    Stamp(usize),
    /// A tool call begins.
    Tool {
        id: String,
        name: String,
    },
    /// More of the call's arguments.
    Arguments(Cow<'static, str>),
}

/// An answer, piece by piece, made as it is needed.
pub(super) struct Answer {
    pub pieces: Peekable<Box<dyn Iterator<Item = Piece> + Send>>,
    pub finish_reason: String,
}

/// The answer that `script` makes of `prompt`'s `call`-th call, `tokens` long
/// unless it says otherwise.
pub(super) fn answer(
    script: &Script,
    prompt: &str,
    call: u64,
    tokens: usize,
    after_tool: bool,
) -> Answer {
    let mut random = Random::new(script.seed, prompt);
    // A prompt that asks for a tool gets it once: then the tool's result is
    // the last message, and is answered in words.
    let tool = script.tool.as_ref().filter(|_| !after_tool);
    let tokens = match (script.tokens, tool) {
        (Some(tokens), _) => tokens,
        (None, Some(_)) => 0,
        (None, None) => tokens,
    };

    let reasoning = text::reasoning(Random::new(random.next(), ""), script.reasoning);
    let reasoning = reasoning.map(Piece::Reasoning);

    let words: Box<dyn Iterator<Item = Cow<'static, str>> + Send> = match script.numbered {
        true => Box::new((0..tokens).map(move |n| Cow::Owned(format!("{call}:{n} ")))),
        false => Box::new(text::answer(random.clone(), tokens)),
    };
    let text: Box<dyn Iterator<Item = Piece> + Send> = match (&script.echo, script.chunk) {
        (Some(echo), chunk) => {
            Box::new(cut(echo.clone(), chunk.unwrap_or(ECHO_CHUNK)).map(Piece::Text))
        }
        (None, _) if script.stamped => Box::new((0..tokens).map(Piece::Stamp)),
        (None, Some(chunk)) => Box::new(cut(words.collect(), chunk).map(Piece::Text)),
        (None, None) => Box::new(words.map(Piece::Text)),
    };

    let call = tool.map(|name| {
        let id = format!("call_{:016x}", random.next());
        let query: String = text::answer(Random::new(random.next(), ""), 6).collect();
        let arguments = serde_json::json!({ "query": query }).to_string();
        std::iter::once(Piece::Tool { id, name: name.clone() })
            .chain(cut(arguments, 6).map(Piece::Arguments))
    });
    let natural = if tool.is_some() { "tool_calls" } else { "stop" };
    let pieces: Box<dyn Iterator<Item = Piece> + Send> =
        Box::new(reasoning.chain(text).chain(call.into_iter().flatten()));
    Answer {
        pieces: pieces.peekable(),
        finish_reason: script.finish.clone().unwrap_or_else(|| natural.to_owned()),
    }
}

/// `text` in pieces of `chunk` characters; all of it at once when that is 0.
fn cut(text: String, chunk: usize) -> impl Iterator<Item = Cow<'static, str>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let end = match chunk {
            0 => rest.len(),
            _ => rest.char_indices().nth(chunk).map_or(rest.len(), |(end, _)| end),
        };
        at += end;
        Some(Cow::Owned(rest[..end].to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Defaults;
    use super::*;

    fn pieces(prompt: &str, after_tool: bool) -> (Vec<Piece>, String) {
        let script = Script::read(prompt, &Defaults::default());
        let answer = answer(&script, prompt, 2, 10, after_tool);
        (answer.pieces.collect(), answer.finish_reason)
    }

    fn text(pieces: &[Piece]) -> String {
        pieces
            .iter()
            .filter_map(|p| if let Piece::Text(t) = p { Some(&**t) } else { None })
            .collect()
    }

    #[test]
    fn echo_is_cut_into_characters() {
        let (echoed, finish) = pieces("[[echo]] [[chunk=2]]añ🚀\r\n", false);
        let expected = ["añ", "🚀\r", "\n"].map(|t| Piece::Text(t.into()));
        assert_eq!((echoed, finish.as_str()), (expected.to_vec(), "stop"));
        let (echoed, _) = pieces("[[chunk=0]][[echo]]everything at once", false);
        assert_eq!(echoed, [Piece::Text("everything at once".into())]);
        assert_eq!(pieces("[[echo]]", false).0, []);
    }

    #[test]
    fn numbered_tokens_say_which_call_and_which_token() {
        assert_eq!(text(&pieces("[[numbered]] [[tokens=3]]", false).0), "2:0 2:1 2:2 ");
    }

    #[test]
    fn stamped_tokens_are_counted_and_not_yet_stamped() {
        let expected: Vec<_> = (0..3).map(Piece::Stamp).collect();
        assert_eq!(pieces("[[stamped]] [[tokens=3]]", false).0, expected);
        assert_eq!(pieces("[[stamped]] [[chunk=1]] [[tokens=3]]", false).0, expected);
    }

    #[test]
    fn chunks_don_t_change_the_text() {
        let script = |directive| format!("[[seed=3]][[tokens=40]]{directive}");
        let with = |chunk| {
            let defaults = Defaults::default();
            let script = Script::read(&script(chunk), &defaults);
            answer(&script, "same", 1, 0, false).pieces.collect::<Vec<_>>()
        };
        assert_eq!(text(&with("")), text(&with("[[chunk=1]]")));
        assert_eq!(with("").len(), 40);
    }

    #[test]
    fn a_tool_is_called_once() {
        let (called, finish) = pieces("[[tool=search]] [[reasoning=2]]", false);
        assert!(matches!(&called[..3], [
            Piece::Reasoning(_),
            Piece::Reasoning(_),
            Piece::Tool { name, .. }
        ] if name == "search"));
        assert_eq!(finish, "tool_calls");
        let arguments: String = called
            .iter()
            .filter_map(|p| if let Piece::Arguments(a) = p { Some(&**a) } else { None })
            .collect();
        assert!(serde_json::from_str::<serde_json::Value>(&arguments).is_ok(), "{arguments}");
        let (answered, finish) = pieces("[[tool=search]]", true);
        assert_eq!((answered.len(), finish.as_str()), (10, "stop"));
    }

    #[test]
    fn a_finish_reason_can_be_asked_for() {
        assert_eq!(pieces("[[finish=length]]", false).1, "length");
    }
}
