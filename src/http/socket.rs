//! What TCP does about clients that vanish: their machine gone, or the network
//! between. No packet says so, and left alone, the kernel repeats what was sent
//! for a quarter of an hour, and asks a silent peer after two hours.

use std::error::Error;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::metrics::Closed;

/// Silence after which the kernel asks a peer whether it is there, at most; and
/// how often it asks again.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Prepares an accepted socket. What was sent to a peer that acknowledges
/// nothing for `patience`, and a peer that answers no keepalive for as long,
/// end the connection. The kernel takes a full window that stays full for the
/// same.
///
/// On Linux `patience` takes the place of keepalive's count, and no keepalive is
/// sent while data is unacknowledged. So a client that vanishes is gone after
/// `patience`, or where a ping is sent to it before, `patience` after the ping
/// (and some seconds: ICMP errors make the kernel try again later).
/// An error means that the peer is gone already, which reading will tell.
pub(super) fn prepare(socket: &TcpStream, patience: Duration) {
    // Tokens are small and must not wait for each other.
    let _ = socket.set_nodelay(true);
    let _ = keep_alive(socket, patience);
}

fn keep_alive(socket: &TcpStream, patience: Duration) -> rustix::io::Result<()> {
    let after = KEEPALIVE_AFTER.min(patience / 2).max(Duration::from_secs(1));
    let interval = KEEPALIVE_INTERVAL.min(patience / 4).max(Duration::from_secs(1));
    let probes = (patience.saturating_sub(after).as_secs() / interval.as_secs()).clamp(1, 100);
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, after)?;
    sockopt::set_tcp_keepintvl(socket, interval)?;
    // For systems other than Linux.
    sockopt::set_tcp_keepcnt(socket, probes as u32)?;
    #[cfg(target_os = "linux")]
    {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    }
    Ok(())
}

/// Whether a connection ended since its client vanished, or didn't read.
pub(super) fn why(error: &(dyn Error + 'static)) -> Option<Closed> {
    let gone = [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH].map(Errno::raw_os_error);
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| {
        let error = error.downcast_ref::<io::Error>()?;
        match error.raw_os_error() {
            Some(code) => gone.contains(&code).then_some(Closed::Vanished),
            // The time for writes is not the system's.
            None => (error.kind() == io::ErrorKind::TimedOut).then_some(Closed::Unread),
        }
    })
}
