//! TLS to Redis: whom to trust, and what to show.

use std::path::Path;

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};

use super::{Address, Error, Result};

/// A client that doesn't connect yet.
///
/// # Errors
/// With what to write, where the URL asks for something that is not done, or a file
/// can't be used.
pub(super) fn client(info: ConnectionInfo, address: &Address) -> Result<Client> {
    let Address { redis_ca, redis_cert, redis_key, .. } = address;
    let insecure = match info.addr() {
        ConnectionAddr::TcpTls { insecure, .. } => *insecure,
        _ if redis_ca.is_some() || redis_cert.is_some() => {
            return Err(Error::Tls(
                "--redis-ca and --redis-cert are for TLS: write rediss:// in REDIS_URL, or leave them out"
                    .to_owned(),
            ));
        }
        _ => return Ok(Client::open(info)?),
    };
    if insecure {
        return Err(Error::Tls(
            "rediss://…#insecure would trust anybody, and is not done: leave #insecure out, and name \
             the server's certificate authority by --redis-ca"
                .to_owned(),
        ));
    }
    let client_tls = match (redis_cert, redis_key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(cert, "--redis-cert")?,
            client_key: read(key, "--redis-key")?,
        }),
        _ => None,
    };
    let root_cert = redis_ca.as_deref().map(|path| read(path, "--redis-ca")).transpose()?;
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(|error| {
        Error::Tls(format!(
            "the files of --redis-ca, --redis-cert or --redis-key can't be used: {error}"
        ))
    })
}

fn read(path: &Path, option: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::Tls(format!("{option} {}: {error}", path.display())))
}
