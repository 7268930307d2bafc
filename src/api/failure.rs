//! Which problems an operation can answer with. A [`Failure`] is a problem of
//! a certain operation, which has declared its codes; so the OpenAPI document
//! tells of each operation how it can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Mutex;

use poem_openapi::ApiResponse;
use poem_openapi::payload::Payload;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;

use super::problem::{Code, Problem, ProblemPayload};

/// What every operation can answer with.
const ALWAYS: &[Code] = &[Code::Internal];
/// What an operation with a parameter in its path, query or headers can.
pub(super) const PARAMETERS: &[Code] = &[Code::InvalidParameter];
/// What an operation that changes something can.
pub(super) const CHANGE: &[Code] = &[Code::ForeignOrigin];
/// What an operation that reads a body can.
pub(super) const BODY: &[Code] = &[
    Code::InvalidJson,
    Code::BodyTimeout,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::UnsupportedContentEncoding,
    Code::InvalidBody,
    Code::InvalidText,
];
/// What an operation that needs PostgreSQL can.
pub(super) const STORE: &[Code] = &[Code::Unavailable];
/// What an operation whose response may be large can.
pub(super) const LARGE: &[Code] = &[Code::Busy];

/// Names the codes that an operation can answer with.
pub(super) trait Operation: Send + Sync + 'static {
    /// In groups, to be named once.
    const CODES: &'static [&'static [Code]];

    fn codes() -> impl Iterator<Item = Code> {
        Self::CODES.iter().chain([&ALWAYS]).flat_map(|group| group.iter().copied())
    }
}

/// Declares operations' failures: `failures! { Get: [STORE, PARAMETERS], TaskNotFound; }`.
macro_rules! failures {
    ($($name:ident: [$($group:ident),*] $(, $code:ident)*;)*) => {
        $(
            #[doc = concat!("What `", stringify!($name), "` can answer with.")]
            pub(super) struct $name;

            impl $crate::api::failure::Operation for $name {
                const CODES: &'static [&'static [$crate::api::problem::Code]] = &[
                    $($crate::api::failure::$group,)*
                    &[$($crate::api::problem::Code::$code,)*],
                ];
            }
        )*
    };
}
pub(super) use failures;

/// A problem of operation `O`.
pub(super) struct Failure<O>(Problem, PhantomData<O>);

impl<O: Operation, E: Into<Problem>> From<E> for Failure<O> {
    fn from(error: E) -> Self {
        let problem = error.into();
        debug_assert!(
            O::codes().any(|code| code == problem.code()),
            "{:?} is missing from the operation's codes, and so from the document",
            problem.code(),
        );
        Self(problem, PhantomData)
    }
}

impl<O> From<Failure<O>> for poem::Error {
    fn from(failure: Failure<O>) -> Self {
        failure.0.into()
    }
}

impl<O: Operation> ApiResponse for Failure<O> {
    fn meta() -> MetaResponses {
        let mut statuses: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in O::codes() {
            statuses.entry(code.status().as_u16()).or_default().push(code);
        }
        let responses = statuses.into_iter().map(|(status, codes)| MetaResponse {
            description: describe(&codes),
            status: Some(status),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: ProblemPayload::CONTENT_TYPE,
                schema: ProblemPayload::schema_ref(),
            }],
            headers: if status == 503 { vec![retry_after()] } else { Vec::new() },
        });
        MetaResponses { responses: responses.collect() }
    }

    fn register(registry: &mut Registry) {
        ProblemPayload::register(registry);
    }
}

fn retry_after() -> MetaHeader {
    MetaHeader {
        name: "Retry-After".to_owned(),
        description: Some("Seconds to wait before the request is repeated.".to_owned()),
        required: true,
        deprecated: false,
        schema: u32::schema_ref(),
    }
}

/// A response's description. poem-openapi wants it to live for ever, so each
/// distinct text is kept, once.
fn describe(codes: &[Code]) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let lines: Vec<_> =
        codes.iter().map(|code| format!("`{}`: {}.", code.as_str(), code.title())).collect();
    let text = lines.join("\n\n");
    let mut texts = crate::sync::lock(&TEXTS);
    match texts.get(text.as_str()) {
        Some(known) => known,
        None => {
            let text: &'static str = Box::leak(text.into_boxed_str());
            texts.insert(text);
            text
        }
    }
}
