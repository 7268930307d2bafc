//! Answers of a model's server from arbitrary bytes. See `crate::fuzz`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use time::OffsetDateTime;

pub(crate) use super::decode::sloppy::{answers, odd_values};
use super::error::{LONGEST_WAIT, MESSAGE, retry_after as parse};
use super::*;
use crate::domain::message::Parameters;
use crate::fuzz::Input;

/// A header's value: a wait that is bounded, or none.
pub(crate) fn retry_after(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    for name in [RETRY_AFTER.as_str(), "retry-after-ms"] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.clone());
        for now in [OffsetDateTime::UNIX_EPOCH, OffsetDateTime::now_utc()] {
            assert!(parse(&headers, now).is_none_or(|wait| wait <= LONGEST_WAIT));
        }
    }
}

/// All that came of one response.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    deltas: Vec<Delta>,
    error: Option<ModelError>,
}

async fn ask(model: &OpenAi, status: u16, body: Bytes, piece: u8) -> Outcome {
    let send = {
        move |_: HttpRequestFactory, _: Option<Secret>| {
            let body = pieces(body.clone(), piece);
            async move {
                let mut response = hyper::Response::new(reqwest::Body::wrap_stream(body));
                *response.status_mut() = status.try_into()?;
                receive(response.into(), None)
                    .await
                    .map_err(|refusal| BoxError::from(Failed(Mutex::new(Some(refusal)))))
            }
        }
    };
    let request =
        ChatRequest { model: "m".into(), turns: Vec::new(), parameters: Parameters::default() };
    let mut outcome = Outcome::default();
    match model.ask(request.into(), send).await {
        Err(error) => outcome.error = Some(error),
        Ok(mut deltas) => {
            while let Some(delta) = deltas.next().await {
                assert_eq!(outcome.error, None, "an error is the end");
                match delta {
                    // It depends on when the pieces come.
                    Ok(Delta::Alive) => {}
                    Ok(delta) => outcome.deltas.push(without_our_id(delta)),
                    Err(error) => outcome.error = Some(error),
                }
            }
        }
    }
    outcome
}

/// Pieces of 1 to `longest` bytes; everything at once if that is 0.
fn pieces(
    mut body: Bytes,
    longest: u8,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let mut random = u32::from(longest);
    stream::iter(std::iter::from_fn(move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = match u32::from(longest) {
            0 => body.len(),
            longest => (1 + (random >> 16) % longest) as usize,
        };
        (!body.is_empty()).then(|| Ok(body.split_to(length.min(body.len()))))
    }))
}

/// IDs of ours are random.
fn without_our_id(mut delta: Delta) -> Delta {
    if let Delta::ToolCall(call) = &mut delta
        && call.id.as_ref().is_some_and(|id| id.len() == 37 && id.starts_with("call_"))
    {
        call.id = Some(String::new());
    }
    delta
}

/// Bytes of a delta's texts.
fn size(delta: &Delta) -> usize {
    match delta {
        Delta::Text(text) | Delta::Reasoning(text) | Delta::Finish(text) => text.len(),
        Delta::ToolCall(call) => {
            let texts = [call.id.as_ref(), call.name.as_ref(), Some(&call.arguments)];
            texts.into_iter().flatten().map(String::len).sum()
        }
        Delta::Opaque(_) | Delta::Usage(_) | Delta::Alive => 0,
    }
}

fn name(delta: &Delta) -> usize {
    match delta {
        Delta::ToolCall(call) => call.name.as_ref().map_or(0, String::len),
        _ => 0,
    }
}

/// The longest piece, a status, and the response's body: deltas that aren't much
/// larger than it, an error of bounded length, and the same in pieces as in one.
pub(crate) fn chunks(input: &[u8]) {
    thread_local! {
        static MODEL: (tokio::runtime::Runtime, OpenAi) = {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let http = http_client(HttpOptions::default()).expect("a client");
            (runtime.expect("a runtime"), OpenAi::new(http, "http://127.0.0.1:1/v1", ApiKey::None))
        };
    }
    let mut input = Input(input);
    let (piece, status) = (input.byte(), input.byte());
    let status = [200, 200, 200, 400, 429, 503][usize::from(status) % 6];
    let body = Bytes::copy_from_slice(input.0);
    let ask = |piece| {
        MODEL.with(|(runtime, model)| {
            let asked = ask(model, status, body.clone(), piece);
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), asked).await })
        })
    };
    let outcome = ask(piece).expect("an end");
    // U+FFFD has three bytes for one; a name in parts is told as a whole each time.
    let names: usize = outcome.deltas.iter().map(name).sum();
    assert!(outcome.deltas.iter().map(size).sum::<usize>() - names <= 3 * body.len());
    assert!(outcome.deltas.len() <= body.len() + 1);
    for delta in &outcome.deltas {
        if let Delta::Text(text) | Delta::Reasoning(text) | Delta::Finish(text) = delta {
            assert!(!text.contains('\0'));
        }
    }
    if let Some(error) = &outcome.error {
        assert!(error.message.chars().count() <= MESSAGE + 100, "{error}");
        assert!(!error.message.contains('\0'), "{error:?}");
    }
    assert_eq!(ask(0).expect("an end"), outcome);
}
