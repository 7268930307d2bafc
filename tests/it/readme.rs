//! `README.md` tells the truth: its walk-through works as it stands, its table
//! of options is what `--help` says, and the tests that it names exist.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;

use crate::support::{App, PATIENCE};

/// Where the README's commands expect `make run`.
const BASE: &str = "http://127.0.0.1:8080";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands in the README between `<!-- name -->` and `<!-- /name -->`.
fn marked(name: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = readme.split_once(&open).unwrap_or_else(|| panic!("README.md: no {open}"));
    rest.split_once(&close).unwrap_or_else(|| panic!("README.md: no {close}")).0.to_owned()
}

/// The fenced blocks of bash in a text, one after the other.
fn bash(text: &str) -> String {
    let blocks = text.split("```bash\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("rill-readme-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    /// What the script has left in the directory that it made in here.
    fn left(&self, name: &str) -> String {
        let mut made = std::fs::read_dir(&self.0).expect("the directory");
        let made = made.find_map(|entry| {
            let path = entry.expect("an entry").path();
            path.is_dir().then_some(path)
        });
        std::fs::read_to_string(made.expect("the script's directory").join(name)).expect(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a script to its end; whether it succeeded, and all that it wrote.
fn run(script: &str, scratch: &Scratch) -> (bool, String) {
    let output = scratch.0.join("output");
    let file = std::fs::File::create(&output).expect("a file");
    let mut child = Command::new("bash")
        .args(["-eu", "-c", script])
        .env("TMPDIR", &scratch.0)
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("bash");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the script can be waited for") {
            break status;
        }
        if started.elapsed() > PATIENCE {
            let _ = (child.kill(), child.wait());
            panic!("the script did not end: {}", std::fs::read_to_string(output).expect("text"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    (status.success(), std::fs::read_to_string(output).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_walk_through_works_word_for_word() {
    let script = bash(&marked("walk-through"));
    assert_eq!(script.matches(BASE).count(), 1, "{script}");
    assert!(script.trim_end().ends_with("&& echo \"nothing lost, nothing twice\""), "{script}");
    let app = App::builder().workers(0).start().await;
    let up = app.up();
    let script = script.replace(BASE, &format!("http://{}", up.address("rill is at").await));
    let scratch = Scratch::new();
    let (success, output) = run(&script, &scratch);
    println!("{output}");
    assert!(success, "{output}");
    assert!(output.trim_end().ends_with("nothing lost, nothing twice"), "{output}");
    // It was cut indeed, in the middle of the answer, and both parts are needed.
    let (cut, rest) = (scratch.left("part1"), scratch.left("part2"));
    assert!(cut.contains("event: delta\n") && !cut.contains("event: done\n"), "{cut}");
    assert!(rest.contains("event: delta\n") && rest.contains("event: done\n"), "{rest}");
    assert!(!rest.contains("event: started\n"), "{rest}");
    assert!(scratch.left("received").len() > 1000, "{}", scratch.left("received"));
}

/// An option as the README has it.
struct Row {
    option: String,
    cells: String,
    roles: Vec<String>,
}

impl Row {
    fn of(argument: &clap::Arg) -> Self {
        let option = format!("`--{}`", argument.get_long().expect("options have names"));
        let environment = argument.get_env().expect("options have variables").to_string_lossy();
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match defaults.join(",") {
            none if none.is_empty() => String::new(),
            some => format!("`{some}`"),
        };
        let mut meaning = argument.get_help().expect("options have help").to_string();
        let values: Vec<_> =
            argument.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
        if !values.is_empty() {
            meaning = format!("{meaning} ({})", values.join(", "));
        }
        let meaning = meaning.replace('|', "\\|").replace('<', "&lt;");
        Self {
            option,
            cells: format!("`{environment}` | {default} | {meaning}"),
            roles: Vec::new(),
        }
    }
}

/// The table, from what clap knows.
fn table() -> String {
    let cli = rill::cli::Cli::command();
    let all: Vec<_> = cli.get_subcommands().collect();
    let mut rows: Vec<Row> = Vec::new();
    for role in &all {
        // What is given on the command line only is in `--help`.
        let arguments = role.get_arguments().chain(cli.get_arguments());
        for argument in arguments.filter(|argument| argument.get_env().is_some()) {
            let row = Row::of(argument);
            let known = rows.iter().position(|r| r.option == row.option && r.cells == row.cells);
            let at = known.unwrap_or_else(|| {
                rows.push(row);
                rows.len() - 1
            });
            rows[at].roles.push(role.get_name().to_owned());
        }
    }
    let mut table = String::from(
        "| option | environment | default | meaning | roles |\n|---|---|---|---|---|\n",
    );
    for Row { option, cells, roles } in rows {
        let roles = if roles.len() == all.len() { "all".to_owned() } else { roles.join(", ") };
        table += &format!("| {option} | {cells} | {roles} |\n");
    }
    table
}

#[test]
fn the_configuration_table_is_what_help_says() {
    let (written, right) = (marked("configuration"), table());
    assert!(
        written.trim() == right.trim(),
        "README.md's table of options is out of date. Put this in its place:\n\n{right}"
    );
}

fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &std::fs::read_to_string(&path).expect("text");
        }
    }
}

/// Each row's last cell names tests, or modules of tests.
fn names_tests_that_exist<'a>(rows: impl Iterator<Item = &'a str>) {
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    sources(&root().join("tests/it"), &mut code);
    let mut checked = 0;
    for row in rows {
        let tests = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test keeps this promise: {row}");
        for test in named {
            let name = test.rsplit("::").next().unwrap_or(test);
            let there = [format!("fn {name}("), format!("mod {name};")];
            assert!(there.iter().any(|name| code.contains(name)), "there is no test {test}");
        }
        checked += 1;
    }
    assert!(checked >= 6, "no table");
}

#[test]
fn each_promise_names_tests_that_exist() {
    names_tests_that_exist(
        marked("promises").lines().filter(|line| line.starts_with("| ")).skip(1),
    );
}

#[test]
fn each_fault_names_tests_that_exist() {
    let matrix = include_str!("faults/mod.rs");
    names_tests_that_exist(matrix.lines().filter(|line| line.starts_with("//! | ")).skip(1));
}
