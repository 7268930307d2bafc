//! Prompts for the simulator from arbitrary text. See `crate::fuzz`.

use std::time::Duration;

use tokio::time::Instant;

use super::Defaults;
use super::answer::answer;
use super::directives::{Script, parse_rate};
use super::reply::time_for;
use super::strict;
use super::wire::{Chunks, Request};

/// A prompt, or a whole request; what it asks for can be begun.
pub(crate) fn directives(input: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let _ = (request.tokens(), request.after_tool(), request.include_usage());
        script(&request.prompt());
    }
    if let Ok(body) = serde_json::from_slice(input) {
        let _ = strict::check(&body);
    }
    if let Ok(prompt) = std::str::from_utf8(input) {
        script(prompt);
        assert!(parse_rate(prompt).is_err() || parse_rate(prompt).is_ok_and(|rate| rate >= 0.0));
    }
}

fn script(prompt: &str) {
    let script = Script::read(prompt, &Defaults::default());
    for call in [1, 2, u64::MAX] {
        assert!(script.failure(call).is_none_or(|status| (400..600).contains(&status)));
        script.breakage(call);
    }
    if let Some(echo) = &script.echo {
        assert!(prompt.ends_with(echo.as_str()));
    }
    // As the reply does.
    let first = Instant::now() + script.ttft;
    let _ = first + time_for(usize::MAX, script.rate);
    let _: Duration = script.ttft + time_for(usize::MAX, script.rate);
    let answer = answer(&script, prompt, 1, 3, false);
    let mut chunks = Chunks::new("id", 0, "m");
    let mut rewriting = script.sloppy.rewriting();
    for piece in answer.pieces.take(64) {
        chunks.piece(&piece);
        let neat = chunks.take();
        assert!(neat.ends_with(b"\n\n"));
        if let Some(rewriting) = &mut rewriting {
            rewriting.rewrite(&neat);
        }
    }
    chunks.end(&answer.finish_reason, None);
    if let Some(mut rewriting) = rewriting {
        assert!(!rewriting.rewrite(&chunks.take()).is_empty());
    }
}
