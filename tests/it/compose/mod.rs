//! `docker-compose.yml` starts what its variables ask for: it is rendered, and the real
//! binary run with each service's command and environment.

mod render;

use clap::Parser;
use serde_json::Value;

use self::render::{Service, Services, Variables, render};
use crate::support::{App, Process};

/// What stands in for the addresses that only containers have.
struct Here {
    app: App,
}

impl Here {
    async fn start() -> Self {
        Self { app: App::builder().workers(0).start().await }
    }

    /// The service's environment, but for addresses.
    fn environment(&self, service: &Service) -> Vec<(String, String)> {
        let mut environment = service.environment.clone();
        let mut replace = |name: &str, expected: &str, here: String| {
            if let Some(value) = environment.get_mut(name) {
                assert_eq!(value, expected, "{name}");
                *value = here;
            }
        };
        replace("DATABASE_URL", "postgres://rill@postgres:5432/rill", self.app.database_url());
        replace("REDIS_URL", "redis://redis:6379", self.app.redis_url.clone());
        replace("RILL_SIMULATOR_URL", "http://simulator:8090", self.app.model_url.clone());
        replace("RILL_LISTEN", "0.0.0.0:8080", "127.0.0.1:0".to_owned());
        replace("RILL_METRICS_LISTEN", "0.0.0.0:9100", "127.0.0.1:0".to_owned());
        environment.insert("RILL_REDIS_PREFIX".to_owned(), self.app.name.clone());
        environment.into_iter().collect()
    }

    fn run(&self, service: &Service) -> Process {
        let command: Vec<_> = service.command.iter().map(String::as_str).collect();
        Process::start(&command, &self.environment(service))
    }

    /// What the service `check` says, which API and worker wait for: the models, or what is
    /// wrong.
    async fn check(&self, services: &Services) -> Result<(), String> {
        let check = &services["check"];
        let command: Vec<_> = check.command.iter().map(String::as_str).collect();
        let environment: Vec<_> = check.environment.clone().into_iter().collect();
        let mut check = Process::start(&command, &environment);
        match check.ended().await.success() {
            true => Ok(()),
            false => Err(check.log()),
        }
    }

    /// The models that the started API offers, the default first; a worker starts as well.
    async fn models(&self, services: &Services) -> Vec<String> {
        let (api, worker) = (self.run(&services["api"]), self.run(&services["worker"]));
        let url = format!("http://{}/v1/models", api.address("rill is at").await);
        let answer = self.app.client.get(url).send().await.expect("the API answers");
        let answer: Value = answer.json().await.expect("JSON");
        let names = answer["items"].as_array().expect("items").iter().map(|model| {
            format!(
                "{}={}",
                model["id"].as_str().expect("text"),
                model["upstream"].as_str().expect("text")
            )
        });
        let names: Vec<_> = names.collect();
        let log = worker.logged("answers come from").await;
        let first = names[0].split('=').next().expect("a name");
        assert!(log.contains(&format!("models=\"{first}")), "{log}");
        names
    }
}

/// A document's blocks in that language, with something in the place of what is left out.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect(document).replace('…', "x");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

/// What stands before `command` on the lines of a document's blocks of bash.
fn given_to(document: &str, command: &str) -> Vec<Variables> {
    let blocks = blocks(document, "bash").concat();
    let given = blocks.lines().filter_map(|line| Some(line.split_once(command)?.0));
    given.filter(|given| given.contains('=') && given.is_ascii()).map(variables).collect()
}

/// `A=1 B=2`.
fn variables(text: &str) -> Variables {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=VALUE"));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

const OLLAMA: &str = "http://host.docker.internal:11434/v1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_compose_offers_the_models_that_its_variables_name() {
    let here = Here::start().await;
    let base = format!("OPENAI_BASE_URL={OLLAMA}");
    let several = format!(
        "RILL_UPSTREAMS=local={OLLAMA},eu=https://llm.example/v1 \
         RILL_MODELS=fast=local/llama3.2,best=eu/large-2"
    );
    for (shell, env_file, expected) in [
        ("", "", &["simulator=simulator"][..]),
        (
            "OPENAI_API_KEY= OPENAI_BASE_URL= RILL_MODELS= RILL_UPSTREAMS= RILL_PROFILES=",
            "",
            &["simulator=simulator"],
        ),
        ("RILL_MODELS=simulator", "", &["simulator=simulator"]),
        ("OPENAI_API_KEY=sk-x", "", &["gpt-4o-mini=openai", "simulator=simulator"]),
        ("", "OPENAI_API_KEY=sk-x RILL_MODELS=gpt-4o", &["gpt-4o=openai", "simulator=simulator"]),
        (
            "OPENAI_API_KEY=sk-x RILL_MODELS=gpt-4o,gpt-4o-mini",
            "",
            &["gpt-4o=openai", "gpt-4o-mini=openai", "simulator=simulator"],
        ),
        (
            "OPENAI_API_KEY=sk-x RILL_MODELS=simulator,gpt-4o",
            "",
            &["simulator=simulator", "gpt-4o=openai"],
        ),
        (&format!("{base} RILL_MODELS=llama3.2"), "", &["llama3.2=openai", "simulator=simulator"]),
        (
            &format!("RILL_UPSTREAMS=local={OLLAMA} RILL_MODELS=llama3.2"),
            "",
            &["llama3.2=local", "simulator=simulator"],
        ),
        (
            &several,
            "RILL_UPSTREAM_EU_API_KEY=sk-x",
            &["fast=local", "best=eu", "simulator=simulator"],
        ),
        (
            &format!("{several} RILL_PROFILES=local=vllm:think_tags=on"),
            "",
            &["fast=local", "best=eu", "simulator=simulator"],
        ),
        (
            &format!("{several} RILL_PROFILES=simulator=default"),
            "",
            &["fast=local", "best=eu", "simulator=simulator"],
        ),
        (
            "OPENAI_BASE_URL=https://x.openai.azure.com/openai/deployments/d?api-version=1 \
             OPENAI_API_KEY=0a RILL_MODELS=d",
            "",
            &["d=openai", "simulator=simulator"],
        ),
    ] {
        let services = render("", &variables(shell), &variables(env_file)).expect("a file");
        let checked = here.check(&services).await;
        assert_eq!(checked, Ok(()), "{shell} {env_file}");
        assert_eq!(here.models(&services).await, expected, "{shell} {env_file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_compose_says_what_is_wrong_once_and_starts_nothing_that_would_restart_for_ever() {
    let here = Here::start().await;
    for (shell, says) in [
        // Silently the simulator alone, once.
        (&format!("OPENAI_BASE_URL={OLLAMA}")[..], "Name them in RILL_MODELS"),
        ("RILL_MODELS=gpt-4o", "set OPENAI_API_KEY"),
        ("OPENAI_API_KEY=sk-x RILL_MODELS=gpt-4o,gpt-4o", "given twice"),
        ("OPENAI_BASE_URL=http://127.0.0.1:11434/v1 RILL_MODELS=m", "host.docker.internal"),
        ("RILL_UPSTREAMS=a=http://localhost:1/v1 RILL_MODELS=m", "host.docker.internal"),
        ("RILL_UPSTREAMS=a=http://x/v1,b=http://y/v1 RILL_MODELS=m", "which upstream"),
        ("OPENAI_API_KEY_FILE=/home/me/key", "/home/me/key"),
        ("OPENAI_API_KEY=sk-x RILL_PROFILES=openai=vlm", "there is no profile"),
    ] {
        let services = render("", &variables(shell), &Variables::new()).expect("a file");
        let said = here.check(&services).await.expect_err(shell);
        assert!(said.to_lowercase().contains(&says.to_lowercase()), "{shell}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert_eq!(services["check"].restart, "no");
        for waits in ["api", "worker"] {
            assert!(services[waits].after.iter().any(|after| after == "check"), "{waits}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_compose_answers_without_any_variable() {
    let here = Here::start().await;
    let services = render("", &Variables::new(), &Variables::new()).expect("a file");
    let _worker = here.run(&services["worker"]);
    let posted = here.app.say("[[tokens=3]] [[rate=0]]").await;
    let read = here.app.read(&posted).await;
    assert_eq!(read.end.expect("an end").event, "done");
}

#[test]
fn docker_compose_s_commands_are_rill_s() {
    let services = render("", &Variables::new(), &Variables::new()).expect("a file");
    let mut names: Vec<_> = services.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["api", "check", "migrate", "simulator", "worker"]);
    for (name, service) in &services {
        let words = std::iter::once("rill").chain(service.command.iter().map(String::as_str));
        rill::cli::Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(service.extra_hosts, ["host.docker.internal:host-gateway"], "{name}");
    }
}

#[test]
fn docker_compose_takes_any_password_and_whatever_else_is_in_its_file() {
    let password = "p@ss:w/o#r%41?d";
    let shell = [("POSTGRES_PASSWORD".to_owned(), password.to_owned())].into();
    let env_file =
        variables("RILL_UPSTREAM_EU_API_KEY=sk-x RILL_CONCURRENCY=7 REDIS_URL=redis://elsewhere");
    let services = render("", &shell, &env_file).expect("a file");
    for name in ["api", "worker", "migrate"] {
        let environment = &services[name].environment;
        assert_eq!(environment["PGPASSWORD"], password);
        let url = reqwest::Url::parse(&environment["DATABASE_URL"]).expect("a URL");
        assert_eq!((url.host_str(), url.password()), (Some("postgres"), None));
        assert_eq!(environment["RILL_CONCURRENCY"], "7");
        assert_eq!(environment["REDIS_URL"], "redis://redis:6379", "the file's own stores");
    }
    assert_eq!(services["worker"].environment["RILL_UPSTREAM_EU_API_KEY"], "sk-x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_s_variables_do_for_docker_compose_what_they_do_for_make_run() {
    let here = Here::start().await;
    let mut examples = given_to("README.md", "make run");
    examples.retain(|example| !example.contains_key("PORT"));
    assert!(examples.len() >= 3, "{examples:?}");
    let exports: String = blocks("README.md", "bash")
        .concat()
        .lines()
        .filter_map(|line| line.strip_prefix("export "))
        .flat_map(|line| [line, " "])
        .collect();
    examples.push(variables(&exports));
    assert!(exports.contains("RILL_UPSTREAM_EU_API_KEY"), "{exports}");
    let mut in_containers = given_to("docs/docker.md", "docker compose up");
    assert_eq!(in_containers.len(), 3);
    let env = blocks("docs/docker.md", "env").concat();
    in_containers.push(variables(&env));
    for example in &examples {
        let environment: Vec<_> = example.clone().into_iter().collect();
        let mut direct = Process::start(&["models"], &environment);
        assert!(direct.ended().await.success(), "{example:?}: {}", direct.log());
        let services = render("", example, example).expect("a file");
        let checked = here.check(&services).await;
        if !example.values().any(|value| value.contains("127.0.0.1")) {
            assert_eq!(checked, Ok(()), "{example:?}");
            continue;
        }
        assert!(checked.expect_err("refused").contains("host.docker.internal"), "{example:?}");
        let there = example.iter().map(|(name, value)| {
            (name.clone(), value.replace("127.0.0.1", "host.docker.internal"))
        });
        in_containers.push(there.collect());
    }
    for example in &in_containers {
        let services = render("", example, example).expect("a file");
        assert_eq!(here.check(&services).await, Ok(()), "{example:?}");
        let models = here.models(&services).await;
        let first = example.get("RILL_MODELS").map_or("gpt-4o-mini", String::as_str);
        let first = first.split([',', '=']).next().expect("a name");
        assert!(models[0].starts_with(&format!("{first}=")), "{example:?}: {models:?}");
        assert_eq!(models.last().map(String::as_str), Some("simulator=simulator"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_files_reach_docker_compose_s_services_by_the_documented_override() {
    let here = Here::start().await;
    let folder = std::env::temp_dir().join(format!("rill-keys-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).expect("a folder");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(Vec::new()).expect("a name");
    let certificate = certificate.self_signed(&key).expect("a certificate").pem();
    std::fs::write(folder.join("openai"), "sk-x\n").expect("written");
    std::fs::write(folder.join("ca.pem"), certificate).expect("written");
    let mounted = blocks("docs/docker.md", "yaml").concat();
    assert!(mounted.contains("./keys:/keys:ro"));
    // As the mount has it.
    let overrides = mounted.replace(": /keys/", &format!(": {}/", folder.display()));
    let services = render(&overrides, &Variables::new(), &Variables::new()).expect("a file");
    assert_eq!(here.check(&services).await, Ok(()));
    let models = here.models(&services).await;
    assert_eq!(models, ["gpt-4o-mini=openai", "simulator=simulator"]);
    std::fs::remove_dir_all(folder).expect("removed");
}
