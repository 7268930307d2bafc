//! Where an upstream's key goes.

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, InvalidHeaderValue};

/// Azure's header for the keys of a resource.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

setting!(
    /// The header that the key is in.
    KeyHeader {
        /// `Authorization: Bearer KEY`.
        #[default]
        Authorization = "authorization",
        /// `api-key: KEY`; but Entra ID's tokens in `Authorization`, where Azure wants them.
        ApiKey = "api_key",
    }
);

impl KeyHeader {
    /// The header for a key.
    pub(in super::super) fn header(
        self,
        key: &str,
    ) -> Result<(HeaderName, HeaderValue), InvalidHeaderValue> {
        match self {
            Self::ApiKey if !is_token(key) => Ok((API_KEY, HeaderValue::try_from(key)?)),
            Self::Authorization | Self::ApiKey => {
                Ok((AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))?))
            }
        }
    }
}

/// A JSON Web Token: three parts, the first a JSON object in base64.
fn is_token(key: &str) -> bool {
    key.starts_with("eyJ") && key.split('.').count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_s_key_and_a_token_have_headers_of_their_own() {
        for (setting, key, name, value) in [
            (KeyHeader::Authorization, "sk-x", "authorization", "Bearer sk-x"),
            (KeyHeader::ApiKey, "0a1b", "api-key", "0a1b"),
            (
                KeyHeader::ApiKey,
                "eyJ0eXAi.eyJhdWQi.c2ln",
                "authorization",
                "Bearer eyJ0eXAi.eyJhdWQi.c2ln",
            ),
            (KeyHeader::ApiKey, "eyJ0eXAi", "api-key", "eyJ0eXAi"),
        ] {
            let header = setting.header(key).expect("a header");
            assert_eq!(header, (HeaderName::from_static(name), HeaderValue::from_static(value)));
        }
    }
}
