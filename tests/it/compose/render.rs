//! Docker Compose's reading of `docker-compose.yml`, as far as the file uses it: merges,
//! substitution, the environment of a service. (Docker itself is not asked for.)

use std::collections::BTreeMap;
use std::path::Path;

use serde_norway::Value;

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// Services by name.
pub(super) type Services = BTreeMap<String, Service>;

/// A service, with what its process gets.
#[derive(Debug)]
pub(super) struct Service {
    /// The words behind the image's entrypoint.
    pub(super) command: Vec<String>,
    pub(super) environment: Variables,
    pub(super) extra_hosts: Vec<String>,
    /// The services that have to end well before it is started.
    pub(super) after: Vec<String>,
    pub(super) restart: String,
}

/// The services of the image `rill`: of the file, and of an override as `docker compose`
/// merges it, for a shell with these variables and a `.env` with those.
pub(super) fn render(
    overrides: &str,
    shell: &Variables,
    env_file: &Variables,
) -> Result<Services, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
    let text = std::fs::read_to_string(path).expect("docker-compose.yml");
    let read = |text: &str| {
        let mut file: Value = serde_norway::from_str(text).expect("YAML");
        file.apply_merge().expect("merges");
        file
    };
    let mut file = read(&text);
    overlay(&mut file, read(overrides));
    // The shell's go before those of `.env`.
    let project: Variables =
        env_file.iter().chain(shell).map(|(n, v)| (n.clone(), v.clone())).collect();
    let services = file["services"].as_mapping().expect("services").iter();
    let ours = services.filter(|(_, service)| service["image"].as_str() == Some("rill"));
    ours.map(|(name, service)| {
        let name = name.as_str().expect("a name").to_owned();
        Ok((name, read_service(service, &project, env_file)?))
    })
    .collect()
}

/// Mappings are merged, lists added to, the rest is replaced.
fn overlay(file: &mut Value, overrides: Value) {
    match (file, overrides) {
        (Value::Mapping(file), Value::Mapping(overrides)) => {
            for (name, value) in overrides {
                match file.get_mut(&name) {
                    Some(old) => overlay(old, value),
                    None => drop(file.insert(name, value)),
                }
            }
        }
        (Value::Sequence(file), Value::Sequence(overrides)) => file.extend(overrides),
        (_, Value::Null) => {}
        (file, overrides) => *file = overrides,
    }
}

fn read_service(
    service: &Value,
    project: &Variables,
    env_file: &Variables,
) -> Result<Service, String> {
    let text = |value: &Value| match value {
        Value::String(text) => substitute(text, project),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(_) | Value::Null => Err(format!("{value:?} should be quoted")),
        _ => Err(format!("{value:?} is no text")),
    };
    let files = service["env_file"].as_sequence().expect("env_file");
    assert_eq!(files.len(), 1);
    assert_eq!(
        (files[0]["path"].as_str(), files[0]["required"].as_bool()),
        (Some(".env"), Some(false))
    );
    let mut environment = env_file.clone();
    for (name, value) in service["environment"].as_mapping().into_iter().flatten() {
        let name = name.as_str().expect("a name");
        // Without a value it is the project's; an absent one hides the file's.
        let value = match value {
            Value::Null => project.get(name).cloned(),
            value => Some(text(value)?),
        };
        match value {
            Some(value) => drop(environment.insert(name.to_owned(), value)),
            None => drop(environment.remove(name)),
        }
    }
    let command = text(&service["command"])?;
    let hosts = service["extra_hosts"].as_sequence().into_iter().flatten();
    let after = service["depends_on"].as_mapping().into_iter().flatten();
    let after = after
        .filter(|(_, how)| how["condition"].as_str() == Some("service_completed_successfully"));
    Ok(Service {
        command: command.split_whitespace().map(str::to_owned).collect(),
        environment,
        extra_hosts: hosts.map(text).collect::<Result<_, _>>()?,
        after: after.filter_map(|(name, _)| name.as_str().map(str::to_owned)).collect(),
        restart: service["restart"].as_str().expect("restart").to_owned(),
    })
}

/// `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR:+instead}`, `${VAR:?error}`, each also
/// without its colon; `$$` is a dollar.
pub(super) fn substitute(text: &str, variables: &Variables) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let end = closing(inside).ok_or_else(|| format!("no }} in {text:?}"))?;
            out += &expand(&inside[..end], variables)?;
            rest = &inside[end + 1..];
        } else {
            let name = name_of(rest);
            if name.is_empty() {
                return Err(format!("a lone $ in {text:?}"));
            }
            out += variables.get(name).map_or("", String::as_str);
            rest = &rest[name.len()..];
        }
    }
    Ok(out + rest)
}

/// What stands between the braces.
fn expand(inside: &str, variables: &Variables) -> Result<String, String> {
    let name = name_of(inside);
    let operator = &inside[name.len()..];
    let value = variables.get(name).map(String::as_str);
    let (value, operator) = match operator.strip_prefix(':') {
        Some(operator) => (value.filter(|value| !value.is_empty()), operator),
        None => (value, operator),
    };
    let operand = operator.get(1..).unwrap_or_default();
    match (operator.chars().next(), value) {
        _ if name.is_empty() => Err(format!("no name in {inside:?}")),
        (None | Some('-' | '?'), Some(value)) => Ok(value.to_owned()),
        (None, None) | (Some('+'), None) => Ok(String::new()),
        (Some('-'), None) | (Some('+'), Some(_)) => substitute(operand, variables),
        (Some('?'), None) => Err(format!("{name}: {operand}")),
        _ => Err(format!("{inside:?} can't be read")),
    }
}

fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Where the brace ends that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[test]
fn variables_are_substituted_as_compose_does() {
    let variables: Variables = [("A", "a"), ("E", "")].map(|(n, v)| (n.into(), v.into())).into();
    for (text, expected) in [
        ("$A-${A}$$A", Ok("a-a$A")),
        ("${N:-x}${E:-x}${E-x}${N-x}", Ok("xxx")),
        ("${A:+x}${E:+x}${E+x}${N+x}", Ok("xx")),
        ("${N:-${A:+<${A}>}}", Ok("<a>")),
        ("${A:?no}", Ok("a")),
        ("${N:?no}", Err("N: no")),
        ("${A", Err("no } in \"${A\"")),
        ("1 $", Err("a lone $ in \"1 $\"")),
    ] {
        let got = substitute(text, &variables);
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{text}");
    }
}
