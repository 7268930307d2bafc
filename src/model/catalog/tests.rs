use super::*;
use crate::model::testing::install_crypto;

fn options(base_url: &str, key: &str, upstreams: &[&str], models: &[&str]) -> Options {
    let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
    Options {
        openai_base_url: Some(base_url.to_owned()),
        openai_api_key: Some(Secret::from(key)),
        upstreams: owned(upstreams),
        models: owned(models),
        ..Options::default()
    }
}

fn catalog(
    base_url: &str,
    key: &str,
    upstreams: &[&str],
    models: &[&str],
) -> Result<Catalog, Error> {
    install_crypto();
    options(base_url, key, upstreams, models).catalog_with(|_| None)
}

fn described(catalog: &Catalog) -> Vec<String> {
    catalog.models().map(|model| format!("{model:?}")).collect()
}

fn complaint(result: Result<Catalog, Error>) -> String {
    result.expect_err("an error").to_string()
}

const LOCAL: &str = "http://127.0.0.1:11434/v1/";

#[test]
fn a_key_alone_is_enough() {
    let catalog = catalog("", "sk-x", &[], &[]).expect("a catalog");
    assert_eq!(described(&catalog), ["gpt-4o-mini (openai/gpt-4o-mini)"]);
    assert_eq!(catalog.default_model().name, "gpt-4o-mini");
}

#[test]
fn nothing_at_all_is_told_apart() {
    assert!(options("", "", &["", " "], &[]).name_no_upstream());
    assert!(!options("", "", &["a=b"], &[]).name_no_upstream());
    assert!(complaint(catalog("", "", &[], &["m"])).contains("OPENAI_API_KEY"));
}

#[test]
fn another_server_s_models_must_be_named() {
    let complaint = complaint(catalog(LOCAL, "", &[], &[]));
    assert!(complaint.contains("RILL_MODELS") && complaint.contains("11434/v1/models"));
    let catalog = catalog(LOCAL, "", &[], &["llama3.2", ""]).expect("a catalog");
    assert_eq!(described(&catalog), ["llama3.2 (openai/llama3.2)"]);
}

#[test]
fn an_azure_deployment_s_url_names_its_model() {
    let base = "https://me.openai.azure.com/openai/deployments/my-4o?api-version=2024-10-21";
    let found = catalog(base, "0a1b", &[], &[]).expect("a catalog");
    assert_eq!(described(&found), ["my-4o (openai/my-4o)"]);
    let named = catalog(base, "0a1b", &[], &["best=openai/my-4o"]).expect("a catalog");
    assert_eq!(described(&named), ["best (openai/my-4o)"]);
    assert!(complaint(catalog(base, "", &["b=http://y"], &[])).contains("RILL_MODELS"));
}

#[test]
fn models_find_their_upstreams() {
    let upstreams = ["local=http://localhost:1/v1", "big=https://example.org/api"];
    let models = ["fast=local", "meta/llama=big/meta-llama/Llama-3:free", "gpt=openai/gpt-5", "o"];
    let catalog = catalog("", "sk-x", &upstreams, &models).expect("a catalog");
    assert_eq!(
        described(&catalog),
        [
            "fast (local/fast)",
            "meta/llama (big/meta-llama/Llama-3:free)",
            "gpt (openai/gpt-5)",
            "o (openai/o)",
        ]
    );
    assert_eq!(catalog.get("gpt").map(|model| model.remote.as_str()), Some("gpt-5"));
    assert!(catalog.get("gpt-5").is_none());
}

#[test]
fn what_is_wrong_is_said() {
    for (upstreams, models, expected) in [
        (&["local"][..], &["m"][..], "expected NAME=URL"),
        (&["lo cal=http://x"], &["m"], "letters, digits"),
        (&["a=ftp://x"], &["m"], "http:// or https://"),
        (&["a=http://u:secret@x/v1"], &["m"], "API key's variable"),
        (&["a=http://x/v1#k"], &["m"], "fragment"),
        (&["a=http://x/v1/chat/completions?api-version=secret"], &["m"], "appended"),
        (&["a=http://x/v1?key=secret"], &[], "GET http://x/v1/models)"),
        (&["a=x/v1?key=secret"], &["m"], "x/v1?…"),
        (&["a=http://u:secret?@x/v1"], &["m"], "base URL"),
        (&["a=http://x/v1/chat/completions"], &["m"], "appended"),
        (&["a=nonsense"], &["m"], "not a base URL"),
        (&["a=http://x", "a=http://y"], &["m"], "given twice"),
        (&["a=http://x", "b=http://y"], &["m"], "Write m=UPSTREAM, one of: a, b"),
        (&["a=http://x"], &["m=c"], "only: a"),
        (&["a=http://x"], &["m", "m=a/n"], "given twice"),
        (&["a=http://x"], &["m m"], "without spaces"),
        (&["a=http://x"], &[], "RILL_MODELS"),
    ] {
        let complaint = complaint(catalog("", "", upstreams, models));
        assert!(complaint.contains(expected), "{complaint}");
        assert!(!complaint.contains("secret"), "{complaint}");
    }
    let complaint = complaint(catalog("", "sk-x\n", &[], &[]));
    assert!(complaint.contains("line break") && !complaint.contains("sk-x"));
    assert!(self::complaint(catalog(LOCAL, "", &["openai=http://x"], &["m"])).contains("BASE_URL"));
}

#[test]
fn keys_come_from_the_environment_and_are_never_printed() {
    install_crypto();
    assert_eq!(key_variable("my-host.2"), "RILL_UPSTREAM_MY_HOST_2_API_KEY");
    let options = options("", "sk-secret", &["a-b=http://x"], &["m=a-b"]);
    let asked = std::cell::RefCell::new(Vec::new());
    let catalog = options.catalog_with(|variable| {
        asked.borrow_mut().push(variable.to_owned());
        (!variable.ends_with("_FILE")).then(|| "key with spaces".to_owned())
    });
    let names = ["RILL_UPSTREAM_A_B_API_KEY_FILE", "RILL_UPSTREAM_A_B_API_KEY"];
    assert_eq!(asked.into_inner(), names);
    assert!(!complaint(catalog).contains("key with spaces"));
    assert!(!format!("{options:?}").contains("sk-secret"));
}

#[test]
fn a_profile_is_a_model_s_or_its_upstream_s_or_its_host_s() {
    use crate::model::openai::profile::{Profile, ThinkTags};
    install_crypto();
    let upstreams = ["local=http://127.0.0.1:1/v1", "m=https://api.mistral.ai/v1"];
    let mut options = options("", "", &upstreams, &["a=local", "b=local", "c=m"]);
    let catalog = |options: &Options| options.catalog_with(|_| None);
    options.profiles = vec!["local=vllm:think_tags=on".into(), "b=ollama".into()];
    let found = catalog(&options).expect("a catalog");
    let profile = |name: &str| found.get(name).expect("a model").profile.clone();
    assert_eq!(profile("a"), Profile { think_tags: ThinkTags::On, ..Profile::default() });
    assert_eq!(profile("b"), Profile::parse("ollama").expect("a profile"));
    assert_eq!(profile("c"), Profile::parse("mistral").expect("a profile"));
    for (spec, part) in [
        ("local", "UPSTREAM=PROFILE"),
        ("x=vllm", "no upstream and no model"),
        ("a=vlm", "there are: default"),
        ("a=vllm:x=y", "there are: stream_options"),
    ] {
        options.profiles = vec![spec.into()];
        let complaint = complaint(catalog(&options));
        assert!(complaint.contains(part), "{spec}: {complaint}");
    }
    options.profiles = vec!["a=vllm".into(), "a=ollama".into()];
    assert!(complaint(catalog(&options)).contains("twice"));
}

#[test]
fn a_key_is_given_once_or_in_a_file() {
    install_crypto();
    let key = |name: &str| name.ends_with("KEY").then(|| "sk-x".to_owned());
    let file = |name: &str| name.ends_with("FILE").then(|| "/nowhere/key".to_owned());
    let options = options("", "", &["a=http://x"], &["m=a"]);
    assert!(options.catalog_with(key).is_ok());
    assert!(complaint(options.catalog_with(file)).contains("/nowhere/key"));
    let both = |name: &str| key(name).or_else(|| file(name));
    assert!(complaint(options.catalog_with(both)).contains("set one of them"));
}

#[test]
fn the_simulator_is_there_beside_what_is_configured_and_alone_otherwise() {
    install_crypto();
    let simulated = |base_url, upstreams: &[&str], models: &[&str]| {
        let url = Some("http://127.0.0.1:8090/".to_owned());
        let options = Options { simulator_url: url, ..options(base_url, "", upstreams, models) };
        assert!(!options.name_no_upstream());
        options.catalog_with(|_| None)
    };
    const SIMULATED: &str = "simulator (simulator/simulator)";
    let local = ["local=http://x"];
    for (upstreams, models, expected) in [
        (&[][..], &[][..], &[SIMULATED][..]),
        (&[], &["simulator"], &[SIMULATED]),
        (&[], &["a=simulator"], &["a (simulator/a)", SIMULATED]),
        // It is none of those that a name may be of.
        (&local, &["m"], &["m (local/m)", SIMULATED]),
        (&local, &["m", "simulator"], &["m (local/m)", SIMULATED]),
        (&local, &["simulator=local"], &["simulator (local/simulator)"]),
    ] {
        let catalog = simulated("", upstreams, models).expect("a catalog");
        assert_eq!(described(&catalog), expected);
        let simulator = catalog.models().find(|model| model.upstream == SIMULATOR);
        let turns = simulator.map(|model| model.profile.turns);
        assert!(turns.is_none_or(|turns| turns == crate::model::openai::profile::Turns::AsWritten));
    }
    assert!(complaint(simulated("", &[], &["gpt-4o"])).contains("nothing says where it is"));
    assert!(complaint(simulated(LOCAL, &[], &[])).contains("RILL_MODELS"));
    assert!(complaint(simulated("", &["simulator=http://x"], &["m"])).contains("SIMULATOR_URL"));
}
