//! What a prompt asks of the simulator, in `[[…]]`.
//!
//! Reading never fails: what isn't a directive is text.

use std::time::Duration;

use super::Defaults;
use super::sloppy::Kinds;
use crate::config::duration;

/// A directive is at most this long; what is longer is text.
const LONGEST: usize = 128;

/// Tokens in one answer, at most: a slip of the keyboard shouldn't fill a disk.
const MOST_TOKENS: usize = 1_000_000;

/// The longest wait for a first token: what is longer is as good as for ever,
/// and a time so far away has no name.
const LONGEST_TTFT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How an answer breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The socket is dropped.
    Cut,
    /// The body ends as if complete, without a finish reason.
    Eof,
    /// Silence, for ever.
    Stall,
    /// A chunk that isn't JSON.
    Garbage,
    /// A chunk whose finish reason is an error, and a clean end.
    Error,
    /// An event that is named an error, and a clean end.
    ErrorEvent,
}

/// How one prompt is answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    /// Tokens of text; `None` when the prompt doesn't say.
    pub tokens: Option<usize>,
    /// Chunks a second; 0 is as fast as possible.
    pub rate: f64,
    /// Another seed, another text.
    pub seed: u64,
    /// Characters in a chunk; 0 is everything in one. Unset: a token.
    pub chunk: Option<usize>,
    /// Time before the first token.
    pub ttft: Duration,
    /// The text to answer with.
    pub echo: Option<String>,
    /// Tokens say which call's they are, and are counted.
    pub numbered: bool,
    /// Tokens are counted and say when they were written.
    pub stamped: bool,
    /// Tokens of reasoning, before the text.
    pub reasoning: usize,
    /// The tool to call.
    pub tool: Option<String>,
    /// A finish reason in place of the natural one.
    pub finish: Option<String>,
    /// The `Retry-After` of a failing status, in seconds.
    pub retry_after: Option<u64>,
    /// What is wrong with a streamed answer's format.
    pub sloppy: Kinds,
    fail: Option<(u16, Calls)>,
    breaks: Vec<(Break, usize, Calls)>,
}

/// The calls of one prompt that a failure befalls: the first so many, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Calls(Option<u64>);

impl Calls {
    /// `call` counts from 1.
    fn include(self, call: u64) -> bool {
        self.0.is_none_or(|first| call <= first)
    }
}

impl Script {
    /// What `prompt` asks for, and `defaults` where it says nothing.
    ///
    /// Directives are found anywhere in the prompt. `[[echo]]` answers with
    /// exactly what follows the run of directives that it stands in; nothing
    /// in there is a directive.
    pub(super) fn read(prompt: &str, defaults: &Defaults) -> Self {
        let mut script = Self {
            tokens: None,
            rate: defaults.rate,
            seed: defaults.seed,
            chunk: None,
            ttft: defaults.ttft.min(LONGEST_TTFT),
            echo: None,
            numbered: false,
            stamped: false,
            reasoning: 0,
            tool: None,
            finish: None,
            retry_after: None,
            sloppy: Kinds::default(),
            fail: None,
            breaks: Vec::new(),
        };
        let mut rest = prompt;
        while let Some(at) = rest.find("[[") {
            let Some((directive, mut after)) = split_directive(&rest[at..]) else {
                rest = &rest[at + 2..];
                continue;
            };
            let mut echo = false;
            if !script.apply(directive, &mut echo) {
                rest = &rest[at + 2..];
                continue;
            }
            while let Some((directive, next)) = split_directive(after.trim_start()) {
                if !script.apply(directive, &mut echo) {
                    break;
                }
                after = next;
            }
            if echo {
                script.echo = Some(after.to_owned());
                break;
            }
            rest = after;
        }
        script
    }

    /// The status that the prompt's `call`-th call fails with.
    pub(super) fn failure(&self, call: u64) -> Option<u16> {
        self.fail.filter(|(_, calls)| calls.include(call)).map(|(status, _)| status)
    }

    /// How, and after how many chunks, the prompt's `call`-th call breaks off.
    pub(super) fn breakage(&self, call: u64) -> Option<(Break, usize)> {
        let due = self.breaks.iter().filter(|(_, _, calls)| calls.include(call));
        due.map(|&(how, after, _)| (how, after)).min_by_key(|&(_, after)| after)
    }

    /// False when `directive` isn't one, or its value makes no sense.
    fn apply(&mut self, directive: &str, echo: &mut bool) -> bool {
        self.try_apply(directive, echo).is_some()
    }

    fn try_apply(&mut self, directive: &str, echo: &mut bool) -> Option<()> {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let (name, value) = (name.trim(), value.trim());
        let text = || (!value.is_empty()).then(|| value.to_owned());
        match name {
            "tokens" => self.tokens = Some(tokens(value)?),
            "reasoning" => self.reasoning = tokens(value)?,
            "rate" => self.rate = parse_rate(value).ok()?,
            "seed" => self.seed = value.parse().ok()?,
            "chunk" => self.chunk = Some(value.parse().ok()?),
            "ttft" => self.ttft = duration(value).ok()?.min(LONGEST_TTFT),
            "tool" => self.tool = Some(text()?),
            "finish" => self.finish = Some(text()?),
            "retry-after" => self.retry_after = Some(value.parse().ok()?),
            "numbered" if value.is_empty() => self.numbered = true,
            "stamped" if value.is_empty() => self.stamped = true,
            "echo" if value.is_empty() => *echo = true,
            "fail" => {
                let (status, calls) = with_calls(value)?;
                let status = status.parse().ok().filter(|status| (400..600).contains(status))?;
                self.fail = Some((status, calls));
            }
            "cut" => self.push_break(Break::Cut, value)?,
            "eof" => self.push_break(Break::Eof, value)?,
            "stall" => self.push_break(Break::Stall, value)?,
            "garbage" => self.push_break(Break::Garbage, value)?,
            "error" => self.push_break(Break::Error, value)?,
            "error-event" => self.push_break(Break::ErrorEvent, value)?,
            "sloppy" => self.sloppy = self.sloppy.and(Kinds::parse(value)?),
            _ => return None,
        }
        Some(())
    }

    fn push_break(&mut self, how: Break, value: &str) -> Option<()> {
        let (after, calls) = with_calls(value)?;
        self.breaks.push((how, after.parse().ok()?, calls));
        Some(())
    }
}

/// The inside of the directive that `text` begins with, and what follows it.
fn split_directive(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix("[[")?;
    let end = inside.as_bytes().windows(2).take(LONGEST).position(|pair| pair == b"]]")?;
    Some((&inside[..end], &inside[end + 2..]))
}

/// `20*3` → 20, on the first 3 calls; `20` → on all.
fn with_calls(value: &str) -> Option<(&str, Calls)> {
    match value.split_once('*') {
        Some((value, calls)) => Some((value, Calls(Some(calls.parse().ok()?)))),
        None => Some((value, Calls(None))),
    }
}

fn tokens(value: &str) -> Option<usize> {
    Some(value.parse::<usize>().ok()?.min(MOST_TOKENS))
}

/// Chunks a second.
pub(super) fn parse_rate(value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("expected a number that isn't negative, such as 30, or 0 for no limit".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(prompt: &str) -> Script {
        Script::read(prompt, &Defaults::default())
    }

    #[test]
    fn directives_are_found_anywhere() {
        let script = read("[[tokens=5]] tell me [[rate=0]][[seed=7]] more [[ttft=20ms]]");
        assert_eq!(script.tokens, Some(5));
        assert_eq!(script.rate, 0.0);
        assert_eq!(script.seed, 7);
        assert_eq!(script.ttft, Duration::from_millis(20));
        assert_eq!(script.echo, None);
    }

    #[test]
    fn a_wait_that_no_clock_can_hold_is_shortened() {
        let script = read("[[ttft=18446744073709551615s]]");
        assert!(std::time::Instant::now().checked_add(script.ttft + script.ttft).is_some());
    }

    #[test]
    fn what_is_no_directive_is_text() {
        for prompt in [
            "[[",
            "[[]]",
            "[[tokens=x]]",
            "[[fail=200]]",
            "[[rate=-1]]",
            "[[cut=1*x]]",
            "[[sloppy]]",
            "[[sloppy=lf+neat]]",
            "a]] [[",
        ] {
            assert_eq!(read(prompt), read(""), "{prompt}");
        }
        assert_eq!(read("[[[[tokens=3]]").tokens, Some(3));
    }

    #[test]
    fn echo_answers_exactly_what_follows_its_run() {
        let echo = |prompt| read(prompt).echo;
        assert_eq!(echo("[[echo]] a\r\n"), Some(" a\r\n".into()));
        assert_eq!(echo("[[echo]] [[chunk=1]]\ta"), Some("\ta".into()));
        assert_eq!(echo("[[chunk=1]] [[echo]]a"), Some("a".into()));
        assert_eq!(echo("say: [[echo]][[x]]a [[tokens=3]]"), Some("[[x]]a [[tokens=3]]".into()));
        assert_eq!(read("say: [[echo]]a [[tokens=3]]").tokens, None);
    }

    #[test]
    fn sloppiness_adds_up() {
        let script = read("[[sloppy=lf+odd-types]] [[sloppy = parts + lf]] [[error-event=3]]");
        assert_eq!(Some(script.sloppy), Kinds::parse("parts+odd-types+lf"));
        assert_eq!(script.breakage(9), Some((Break::ErrorEvent, 3)));
    }

    #[test]
    fn failures_befall_the_first_calls() {
        let script = read("[[fail=429*2]] [[cut=20*3]] [[eof=30]]");
        assert_eq!(script.failure(2), Some(429));
        assert_eq!(script.failure(3), None);
        assert_eq!(script.breakage(3), Some((Break::Cut, 20)));
        assert_eq!(script.breakage(4), Some((Break::Eof, 30)));
        assert_eq!(read("[[fail=500]]").failure(u64::MAX), Some(500));
    }

    proptest! {
        #[test]
        fn any_text_is_echoed_exactly(text in any::<String>()) {
            // Text that itself begins with a directive would join the run.
            prop_assume!(!text.trim_start().starts_with("[["));
            let script = read(&format!("[[chunk=3]][[echo]]{text}"));
            prop_assert_eq!(script.echo, Some(text));
        }
    }
}
