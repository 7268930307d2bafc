//! What the simulator obeys, for `--help` and `docs/simulator.md`: the tables are written
//! here once, and a test compares.

/// Directives, and what they do.
pub(crate) const DIRECTIVES: &[(&str, &str)] = &[
    (
        r"`[[tokens=200]]` `[[rate=50]]` `[[ttft=500ms]]`",
        r#"length, chunks a second (0: no limit), time before the first"#,
    ),
    (
        r"`[[seed=7]]` `[[chunk=12]]`",
        r#"another text; chunks of so many characters (0: one chunk)"#,
    ),
    (r"`[[echo]]`", r#"answers with the text after the directives, exactly"#),
    (
        r"`[[numbered]]`",
        r#"answers with `1:0 1:1 1:2 …`: which call of the prompt, and its tokens counted, so that a text shows what it lost, doubled or mixed"#,
    ),
    (
        r"`[[stamped]]`",
        r#"answers with `0@1789000000000000 1@…`: its tokens counted, and the microsecond (since 1970) at which each was written, a chunk a token, so that a reader can tell how long it took"#,
    ),
    (
        r"`[[reasoning=20]]` `[[tool=name]]` `[[finish=length]]`",
        r#"reasoning first; a tool call; a finish reason"#,
    ),
    (
        r"`[[fail=429*2]]` `[[retry-after=2]]`",
        r#"that status, for the first 2 calls with this prompt"#,
    ),
    (
        r"`[[cut=20]]` `[[eof=20]]` `[[stall=20]]` `[[garbage=20]]`",
        r#"after 20 chunks: the socket dropped, a clean end without a finish reason, silence, a chunk that isn't JSON; `*k` as above"#,
    ),
    (
        r"`[[error=20]]` `[[error-event=20]]`",
        r#"after 20 chunks: one with `"finish_reason":"error"` and an error in its choice, an `event: error` that is no chunk; then `[DONE]` and a clean end; `*k` as above"#,
    ),
    (
        r"`[[sloppy=lf+parts]]`",
        r#"streams as some servers do: the kinds below; more directives add more kinds"#,
    ),
];

/// Kinds of `[[sloppy=…]]`, and what a streamed answer then is.
pub(crate) const KINDS: &[(&str, &str)] = &[
    (r"`lf`", r#"has one line end between events, not an empty line"#),
    (r"`crlf` `cr`", r#"has that line end; `cr` wins"#),
    (
        r"`unended`",
        r#"has no `[DONE]`, and nothing behind the last event's JSON, not even a line end"#,
    ),
    (
        r"`heartbeats`",
        r#"has before each event a comment, `data: ` without data, `data: ping`, and chunks with `"choices":[]`, an empty delta, and `"usage":{}`"#,
    ),
    (
        r"`parts`",
        r#"has content as `[{"type":"text","text":…}]`, reasoning in it as `{"type":"thinking","thinking":[{"type":"text","text":…}]}`"#,
    ),
    (r"`message`", r#"has `message` in the place of `delta`"#),
    (
        r"`unfinished`",
        r#"has `"finish_reason":null` throughout (but for `[[error=…]]`), and `[DONE]`: this wins over `unended`"#,
    ),
    (
        r"`odd-types`",
        r#"has indexes and `created` as strings, usage as floats in the chunk with the finish reason, `"logprobs":-Infinity`, `"error":false`, a tool call's arguments as an object in one chunk, and a chunk's text that is an integer as a number (not with `parts`)"#,
    ),
    (r"`no-index` `bad-ids`", r#"has tool calls without index, with `""` as their IDs"#),
    (
        r"`whole`",
        r#"isn't one: a `chat.completion`, indented, comes at its end; the kinds for JSON apply, those for lines and `bytes` don't. A breakage replaces it, however late that would be"#,
    ),
    (
        r"`mislabelled`",
        r#"says that it is `application/json`; with `whole`, that it is `text/event-stream`"#,
    ),
    (
        r"`bytes`",
        r#"has the surrogate halves of a character beyond U+FFFF in two chunks: `\ud83d`, `\ude00`"#,
    ),
];

/// What stands behind the options of `rill simulate --help`.
pub(super) fn long() -> String {
    let mut text = String::from(
        "The last user message directs it, by [[…]] anywhere in it (docs/simulator.md has examples):\n\n",
    );
    for (heading, rows) in [("", DIRECTIVES), ("\nKinds of [[sloppy=…]]: the answer\n\n", KINDS)]
    {
        text += heading;
        for (names, effect) in rows {
            text += &format!("  {}\n      {effect}\n", names.replace('`', ""));
        }
    }
    text
}

/// What stands there for `-h`.
pub(super) const SHORT: &str = "The prompt directs it, as in: Tell me more. [[tokens=300]] [[rate=50]]. See --help, or docs/simulator.md";

#[cfg(test)]
mod tests {
    use super::super::directives::Script;
    use super::super::sloppy::Kinds;
    use super::super::{Defaults, KIND_NAMES};
    use super::*;

    /// What stands in backticks.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn every_directive_that_is_documented_is_one() {
        let read = |prompt: &str| Script::read(prompt, &Defaults::default());
        for directive in DIRECTIVES.iter().flat_map(|(names, _)| quoted(names)) {
            assert_ne!(read(&format!("{directive} a")), read("a"), "{directive}");
        }
        let kinds: Vec<_> = KINDS.iter().flat_map(|(names, _)| quoted(names)).collect();
        assert_eq!(kinds.len(), KIND_NAMES);
        for kind in kinds {
            assert!(Kinds::parse(kind).is_some(), "{kind}");
        }
    }

    #[test]
    fn every_directive_is_documented() {
        let documented: Vec<_> = DIRECTIVES.iter().flat_map(|(names, _)| quoted(names)).collect();
        let source = include_str!("directives.rs");
        let (_, known) = source.split_once("match name {").expect("the directives");
        let (known, _) = known.split_once("_ => return None").expect("their end");
        let names =
            known.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next());
        let mut count = 0;
        for name in names {
            let is_it = |directive: &&str| {
                directive.strip_prefix("[[").is_some_and(|rest| {
                    rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['=', ']']))
                })
            };
            assert!(documented.iter().any(is_it), "[[{name}]] is in no table");
            count += 1;
        }
        assert!(count > 15, "{count}");
    }

    #[test]
    fn the_document_has_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/simulator.md");
        let document = std::fs::read_to_string(path).expect("docs/simulator.md");
        for (head, rows) in
            [("| directive | effect |", DIRECTIVES), ("| kind | the answer |", KINDS)]
        {
            let rows: String = rows.iter().map(|(a, b)| format!("| {a} | {b} |\n")).collect();
            let table = format!("{head}\n|---|---|\n{rows}");
            assert!(document.contains(&table), "docs/simulator.md should have:\n\n{table}");
        }
    }
}
