//! The document's routes: for what must be known of a request before poem has found
//! its handler, and for what is told of it afterwards.

use std::collections::BTreeMap;

use poem::http::Method;
use poem_openapi::registry::{MetaApi, MetaParamIn};

use super::problem::{Code, Problem};
use crate::domain::quoted;

/// What the document says of a route.
#[derive(Debug)]
pub(super) struct Known {
    /// The route as the document writes it.
    pub(super) route: String,
    /// Its methods: what 405 says in `Allow`.
    pub(super) allow: String,
    /// The names of the query's parameters, for each method.
    queries: Vec<(Method, Vec<String>)>,
}

impl Known {
    /// The document's name of the path's parameter that poem-openapi calls `param0`,
    /// `param1`, …
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let number: usize = name.strip_prefix("param")?.parse().ok()?;
        let mut names = self.route.split('/').filter_map(|step| step.strip_prefix('{'));
        names.nth(number)?.strip_suffix('}')
    }

    fn leads_to(&self, path: &str) -> bool {
        let (mut route, mut path) = (self.route.split('/'), path.split('/'));
        loop {
            match (route.next(), path.next()) {
                (None, None) => return true,
                (Some(known), Some(step)) if known == step => {}
                (Some(known), Some(step)) if known.starts_with('{') && !step.is_empty() => {}
                _ => return false,
            }
        }
    }
}

/// The routes, by the patterns that poem matches them with: there, poem-openapi
/// names parameters by their number.
#[derive(Debug)]
pub(super) struct Routes(BTreeMap<String, Known>);

impl Routes {
    pub(super) fn of(apis: Vec<MetaApi>) -> Self {
        let mut routes = BTreeMap::new();
        for path in apis.into_iter().flat_map(|api| api.paths) {
            let steps = path.path.split('/').scan(0, |parameters, step| {
                Some(if step.starts_with('{') {
                    *parameters += 1;
                    format!(":param{}", *parameters - 1)
                } else {
                    step.to_owned()
                })
            });
            let pattern = steps.collect::<Vec<_>>().join("/");
            let known = routes.entry(pattern).or_insert_with(|| Known {
                route: path.path.clone(),
                allow: String::new(),
                queries: Vec::new(),
            });
            for operation in path.operations {
                let head = (operation.method == Method::GET).then_some("HEAD");
                for method in std::iter::once(operation.method.as_str()).chain(head) {
                    if !known.allow.is_empty() {
                        known.allow.push_str(", ");
                    }
                    known.allow.push_str(method);
                }
                let query = |parameter: &poem_openapi::registry::MetaOperationParam| {
                    (parameter.in_type == MetaParamIn::Query).then(|| parameter.name.clone())
                };
                let names = operation.params.iter().filter_map(query).collect();
                known.queries.push((operation.method, names));
            }
        }
        Self(routes)
    }

    /// The route that poem has found.
    pub(super) fn by_pattern(&self, pattern: &str) -> Option<&Known> {
        self.0.get(pattern)
    }

    /// The route that a path will lead to.
    pub(super) fn of_path(&self, path: &str) -> Option<&Known> {
        self.0.values().find(|known| known.leads_to(path))
    }

    /// Refuses parameters that the operation doesn't know: misspelt ones would do
    /// nothing, silently. What is outside `/v1` ignores them, as probes and pages do.
    ///
    /// # Errors
    /// With the names that are known.
    pub(super) fn check_query(
        &self,
        method: &Method,
        path: &str,
        query: &str,
    ) -> Result<(), Problem> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let known =
            Some(path).filter(|path| path.starts_with("/v1/")).and_then(|path| self.of_path(path));
        let queries = known.map_or(&[][..], |known| &known.queries);
        let Some((_, names)) = queries.iter().find(|(known, _)| known == method) else {
            return Ok(());
        };
        let mut seen: Vec<(_, _)> = Vec::with_capacity(names.len());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if !names.iter().any(|known| *known == name) {
                return Err(unknown(&name, names));
            }
            match seen.iter().find(|(known, _)| *known == name) {
                None => seen.push((name, value)),
                Some((_, before)) if *before == value => {}
                Some(_) => {
                    let detail =
                        format!("{name} stands in the query twice, with different values.");
                    return Err(Problem::new(Code::InvalidParameter, detail));
                }
            }
        }
        Ok(())
    }
}

fn unknown(name: &str, known: &[String]) -> Problem {
    let known = match known {
        [] => "it takes none".to_owned(),
        names => format!("it takes {}", names.join(", ")),
    };
    let detail = format!(
        "The query has a parameter {} that this operation doesn't know; {known}.",
        quoted(name)
    );
    Problem::new(Code::InvalidParameter, detail)
}
