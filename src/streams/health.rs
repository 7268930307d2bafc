//! Whether each connection to Redis that a process uses takes a write.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, Value};

use super::link::Link;
use super::{Streams, answered};
use crate::sync::lock;

/// How long a connection may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What failed and was not tried again for so long is forgotten.
const RECENT: Duration = Duration::from_secs(5);

/// How a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkHealth {
    /// It takes a write.
    Writes,
    /// There was one, and nobody is there any more.
    Away(String),
    /// There was never one.
    NeverUp(String),
    /// The server says no: it is a replica, it wants another password, it is another
    /// deployment's.
    Refused(String),
    /// The server does not answer.
    Silent,
}

/// Why a connection can't be made or used; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    was_up: bool,
    /// The last error, whether the server itself said it, and when.
    error: Option<(String, bool, Instant)>,
}

impl Trouble {
    pub(super) fn is_over(&self) {
        *lock(&self.0) = State { was_up: true, error: None };
    }

    pub(super) fn is(&self, error: &RedisError) {
        let told = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::AuthenticationFailed)
            || error.code().is_some();
        lock(&self.0).error = Some((error.to_string(), told, Instant::now()));
    }

    pub(super) fn refused(&self, why: &str) {
        lock(&self.0).error = Some((why.to_owned(), true, Instant::now()));
    }

    /// What is known without asking.
    fn health(&self) -> LinkHealth {
        let state = lock(&self.0);
        match &state.error {
            None if state.was_up => LinkHealth::Writes,
            None => LinkHealth::NeverUp("not connected yet".to_owned()),
            Some((why, true, _)) => LinkHealth::Refused(why.clone()),
            Some(_) if state.was_up => LinkHealth::Away("no connection".to_owned()),
            Some(_) => LinkHealth::NeverUp("no connection could be made yet".to_owned()),
        }
    }

    /// The same of connections that are made when they are needed: what was wrong a
    /// while ago says nothing.
    fn recent_health(&self) -> LinkHealth {
        let recent = lock(&self.0).error.as_ref().is_some_and(|(.., at)| at.elapsed() < RECENT);
        if recent { self.health() } else { LinkHealth::Writes }
    }
}

/// The connections of a process, by what they are for.
#[derive(Debug, Clone, Default)]
pub(super) struct Register(Arc<Mutex<Vec<(&'static str, Use)>>>);

#[derive(Debug, Clone)]
enum Use {
    Link(Link),
    /// Connections that one read at a time uses: known by how the last one went.
    Pool(Trouble),
}

impl Register {
    pub(super) fn link(&self, name: &'static str, link: &Link) {
        lock(&self.0).push((name, Use::Link(link.clone())));
    }

    pub(super) fn pool(&self, name: &'static str) -> Trouble {
        let trouble = Trouble::default();
        lock(&self.0).push((name, Use::Pool(trouble.clone())));
        trouble
    }
}

impl Streams {
    /// How each connection is, by what it is for.
    pub async fn health(&self) -> Vec<(&'static str, LinkHealth)> {
        let uses = lock(&self.inner.register.0).clone();
        join_all(uses.into_iter().map(|(name, which)| async move {
            let health = match which {
                Use::Link(link) => self.link_health(&link).await,
                Use::Pool(trouble) => trouble.recent_health(),
            };
            (name, health)
        }))
        .await
    }

    async fn link_health(&self, link: &Link) -> LinkHealth {
        let Ok(mut connected) = link.get(Duration::ZERO).await else {
            return link.trouble.health();
        };
        let probe = self.inner.deployment.probe();
        match tokio::time::timeout(LIMIT, connected.send(&probe)).await {
            Ok(Ok(answer @ Value::ServerError(_))) => match answered(answer) {
                Err(error) => LinkHealth::Refused(error.to_string()),
                Ok(_) => LinkHealth::Writes,
            },
            Ok(Ok(_)) => LinkHealth::Writes,
            Ok(Err(super::Error::Redis(error))) if error.is_timeout() => LinkHealth::Silent,
            // It broke just now.
            Ok(Err(_)) => LinkHealth::Away("no connection".to_owned()),
            Err(_) => LinkHealth::Silent,
        }
    }
}
