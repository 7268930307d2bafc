//! Where a server listens: an address as people write it, and the sockets that
//! it comes to.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Bytes that the kernel may hold for a client that doesn't read them (Linux
/// takes as much again for its own). Left alone it takes up to 4 MiB for each.
const SEND_BUFFER: u32 = 64 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A host and a port. The host is an IP address, or a name that is looked up
/// when the server starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// What it comes to, in the resolver's order.
    ///
    /// # Errors
    /// When the name is not known.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found = Vec::new();
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        Ok(found)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLES: &str = "write 127.0.0.1:8080, [::1]:8080, localhost:8080, or 0.0.0.0:8080 \
                                for every address of this machine";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let wrong = |why: &str| Err(format!("{why}: {EXAMPLES}"));
        if text.contains("://") || text.contains('/') {
            return wrong("a host and a port are wanted, not a URL");
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong(match text.parse::<u16>() {
                Ok(_) => "the host is missing",
                Err(_) => "the port is missing",
            });
        };
        if host.is_empty() {
            return wrong("the host is missing");
        }
        if host.contains(':') {
            return wrong("an IPv6 address and a port need brackets, and both");
        }
        let Ok(port) = port.parse() else {
            return wrong("the port is not a number from 0 to 65535");
        };
        let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        // 127.0.0.1.1 and 256.0.0.1 are numbers that are no address, and no names.
        if !host.bytes().all(named) || host.rsplit('.').next().is_some_and(is_number) {
            return wrong("the host is neither an IP address nor a name");
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

fn is_number(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

/// Every socket of an address. `localhost` is two as a rule, and who connects
/// may choose either.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    next: AtomicUsize,
}

impl Listener {
    /// Listens, with sockets whose connections cost the kernel little.
    ///
    /// # Errors
    /// When the name is not known, or one of its addresses is taken, or none of
    /// them is this machine's.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        Self::on(address.resolve().await?)
    }

    fn on(addresses: Vec<SocketAddr>) -> io::Result<Self> {
        let mut sockets: Vec<TcpListener> = Vec::new();
        let mut not_ours = None;
        for mut resolved in addresses {
            // A port that the system chooses is one port.
            if let (0, Some(first)) = (resolved.port(), sockets.first()) {
                resolved.set_port(first.local_addr()?.port());
            }
            match listen(resolved) {
                Ok(socket) => sockets.push(socket),
                Err(error) if is_not_ours(&error) => not_ours = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (sockets.is_empty(), not_ours) {
            (true, not_ours) => {
                Err(not_ours.unwrap_or_else(|| io::Error::other("the name has no address")))
            }
            (false, _) => Ok(Self { sockets, next: AtomicUsize::new(0) }),
        }
    }

    /// The addresses that it listens on.
    ///
    /// # Errors
    /// When the system doesn't tell.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }

    /// The address as it was written, with the port that it has.
    ///
    /// # Errors
    /// When the system doesn't tell.
    pub fn name(&self, written: &Address) -> io::Result<Address> {
        let port = match self.sockets.first() {
            Some(socket) => socket.local_addr()?.port(),
            None => written.port,
        };
        Ok(Address { host: written.host.clone(), port })
    }

    /// The next connection, of any of the sockets in turn.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let count = self.sockets.len();
        poll_fn(|cx| {
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            for at in 0..count {
                let socket = &self.sockets[first.wrapping_add(at) % count];
                if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { sockets: vec![socket], next: AtomicUsize::new(0) }
    }
}

/// As where IPv6 is off, and /etc/hosts has `::1 localhost` all the same.
fn is_not_ours(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// One socket, whose connections cost the kernel little.
///
/// # Errors
/// When the address is taken, or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A new process need not wait for the old one's connections to time out.
    socket.set_reuseaddr(true)?;
    // Set here, as connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_address_says_what_to_write() {
        for (bad, why) in [
            ("", "the port is missing"),
            ("localhost", "the port is missing"),
            ("127.0.0.1", "the port is missing"),
            ("8080", "the host is missing"),
            (":8080", "the host is missing"),
            ("http://localhost:8080", "not a URL"),
            ("localhost:8080/", "not a URL"),
            ("::1:8080", "brackets"),
            ("::1", "brackets"),
            ("[::1]", "brackets"),
            ("[::1:8080", "brackets"),
            ("localhost:http", "the port is not a number"),
            ("localhost:65536", "the port is not a number"),
            ("localhost:-1", "the port is not a number"),
            ("local host:80", "neither an IP address nor a name"),
            ("256.0.0.1:80", "neither an IP address nor a name"),
            ("127.0.0.1.1:80", "neither an IP address nor a name"),
            ("*:8080", "neither an IP address nor a name"),
        ] {
            let error = bad.parse::<Address>().expect_err(bad);
            assert!(
                error.contains(why) && error.contains("write 127.0.0.1:8080"),
                "{bad}: {error}"
            );
        }
        for good in ["127.0.0.1:0", "[::]:8080", "localhost:8080", "rill.internal:80", "my_host:1"]
        {
            assert_eq!(good.parse::<Address>().expect(good).to_string(), good);
        }
    }

    // Where all of 127.0.0.0/8 is this machine's.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_name_is_every_address_that_it_comes_to_on_one_port() {
        // The last one is nobody's.
        let addresses = ["127.0.0.1:0", "127.0.0.2:0", "192.0.2.1:0"];
        let listener = Listener::on(addresses.map(|text| text.parse().expect("one")).to_vec());
        let listener = listener.expect("free ports");
        let addresses = listener.addresses().expect("addresses");
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
        for address in addresses.repeat(2) {
            let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (_, peer) = accepted.expect("accepts");
            assert_eq!(client.expect("there").local_addr().expect("known"), peer);
        }
        assert!(Listener::on(vec!["192.0.2.1:0".parse().expect("one")]).is_err());
        assert!(Listener::on(addresses).is_err(), "one that is taken");
    }

    #[tokio::test]
    async fn localhost_can_be_listened_on() {
        let listener = Listener::bind(&"localhost:0".parse().expect("an address")).await;
        let addresses = listener.expect("a free port").addresses().expect("addresses");
        assert!(!addresses.is_empty() && addresses.iter().all(|one| one.ip().is_loopback()));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_an_error() {
        let address = "no-such-host.invalid:0".parse().expect("looks like one");
        assert!(Listener::bind(&address).await.is_err());
    }
}
