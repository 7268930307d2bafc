//! Request bodies stay below a limit, whoever reads them.

use std::io;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use poem::http::header;
use poem::{Body, Request};

/// A request's body is longer than the server allows. It arrives as the source
/// of the [`io::Error`] that reading the body ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's body is longer than {max} bytes")]
pub struct BodyTooLarge {
    /// The limit.
    pub max: usize,
}

impl BodyTooLarge {
    /// The limit that `error` reports as exceeded, if that is what it is about.
    pub fn find(error: &io::Error) -> Option<Self> {
        let cause = error.get_ref()?;
        // poem's readers wrap one io::Error in another.
        match cause.downcast_ref::<io::Error>() {
            Some(inner) => Self::find(inner),
            None => cause.downcast_ref::<Self>().copied(),
        }
    }
}

/// Makes reading more than `max` bytes of the body fail.
pub(super) fn limit(mut request: Request, max: usize) -> Request {
    let declared =
        request.header(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    // hyper gives out no more than was declared.
    if declared.is_some_and(|length| length <= max) {
        return request;
    }
    let too_large = move || io::Error::other(BodyTooLarge { max });
    let body = request.take_body();
    request.set_body(if body.is_empty() {
        body
    } else if declared.is_some() {
        Body::from_bytes_stream(stream::once(async move { Err::<Bytes, _>(too_large()) }))
    } else {
        let mut left = max;
        Body::from_bytes_stream(body.into_bytes_stream().map(move |bytes| {
            let bytes = bytes?;
            left = left.checked_sub(bytes.len()).ok_or_else(too_large)?;
            Ok::<_, io::Error>(bytes)
        }))
    });
    request
}
