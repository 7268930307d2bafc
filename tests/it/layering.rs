//! The shape of the code, kept.
//!
//! `domain ← {store | streams | model} ← tasks ← {worker | api | operate | cli} ← app ← main`;
//! siblings don't import each other; `redis` only in streams, `sqlx` only in
//! store, `poem` only in api, the accept loop and the simulator's server.

use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Files below `src/` with their text, by path from there.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&root)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("text");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            (name, code.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

fn layer(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

#[test]
fn layers_only_know_those_below_them() {
    let upper: &[(&str, &[&str])] = &[
        (
            "domain",
            &[
                "store", "streams", "model", "tasks", "worker", "api", "operate", "cli", "app",
                "http", "metrics",
            ],
        ),
        ("store", &["streams", "model", "tasks", "worker", "api", "operate", "cli", "app", "http"]),
        ("streams", &["store", "model", "tasks", "worker", "api", "operate", "cli", "app", "http"]),
        ("model", &["store", "streams", "tasks", "worker", "api", "operate", "cli", "app"]),
        ("http", &["store", "streams", "model", "tasks", "worker", "api", "operate", "cli", "app"]),
        ("tasks", &["worker", "api", "operate", "cli", "app", "http"]),
        ("worker", &["api", "operate", "cli", "app", "http"]),
        ("api", &["worker", "operate", "cli", "app"]),
        ("operate", &["worker", "api", "cli", "app", "http"]),
        ("cli", &["app"]),
    ];
    for (file, text) in files() {
        let Some((_, forbidden)) = upper.iter().find(|(name, _)| *name == layer(&file)) else {
            continue;
        };
        for module in *forbidden {
            let grouped = text.split("use crate::{").skip(1).any(|uses| {
                let uses = uses.split(';').next().unwrap_or_default();
                uses.split([',', '{', '}', ' ', '\n', ':']).any(|word| word == *module)
            });
            assert!(
                !grouped && !text.contains(&format!("crate::{module}::")),
                "src/{file} must not know {module}"
            );
        }
    }
}

#[test]
fn each_crate_is_known_in_one_place() {
    let places: &[(&str, &[&str])] = &[
        ("redis::", &["streams/"]),
        ("sqlx::", &["store/"]),
        ("poem::", &["api/", "http/", "model/simulator/"]),
        ("async_openai::", &["model/openai/"]),
    ];
    for (file, text) in files() {
        for (name, allowed) in places {
            let known = text.match_indices(name).any(|(at, _)| {
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            let here = allowed.iter().any(|place| file.starts_with(place));
            assert!(!known || here, "src/{file} must not know {name}");
        }
    }
}
