//! What an upstream or a caller writes acts on no terminal and forges no log line,
//! and users read nothing of the operator's account.

use serde_json::{Value, json};

use crate::operators::rill;
use crate::support::{App, Provider, refusal};

/// Each ends with a word that is looked for.
const HOSTILE: [&str; 8] = [
    "a\n2026-11-27T00:00:00.000000Z ERROR rill: FORGED found0",
    "a\r\n\tfound1",
    "a\u{1b}[2J\u{1b}]0;owned\u{7}found2",
    "a\u{9b}31mfound3",
    "a\u{202e}\u{2066}found4",
    "a\u{200b}\u{feff}\u{2060}found5",
    "a\u{7f}\u{8}\u{0}found6",
    "a\u{e0041}\u{2028}found7",
];

fn is_hidden(c: char) -> bool {
    c != '\n' && rill::text::is_hidden(c)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_an_upstream_says_acts_on_a_terminal_or_forges_a_line() {
    let error = |said: &str| {
        let kind = "invalid_request_error";
        json!({ "error": { "message": format!("org-AbCdEf12 {said}"), "type": kind } }).to_string()
    };
    let statuses = ["400 Bad Request", "401 Unauthorized"];
    let answers = HOSTILE
        .iter()
        .flat_map(|said| statuses.map(|status| refusal(status, &error(said))))
        .collect();
    for format in ["pretty", "json"] {
        let answers: Vec<_> = Clone::clone(&answers);
        let provider = Provider::start(answers).await;
        let builder = App::builder().with("RILL_MAX_FAILURES", "1").with("RILL_MODELS", "m");
        let builder = builder.with("OPENAI_BASE_URL", &provider.url);
        let app = builder.with("RILL_LOG_FORMAT", format).start().await;
        for n in 0..HOSTILE.len() {
            let word = format!("found{n}");
            for status in statuses {
                let posted = app.say("hi").await;
                let end = app.read(&posted).await.end.expect("an end");
                let data: Value = serde_json::from_str(&end.data).expect("JSON");
                let task = app.reaches(&posted, "failed").await;
                let told = data["message"].as_str().expect("a message");
                assert_eq!(told, task["error"]["message"]);
                assert!(!told.contains(is_hidden) && !told.contains("org-"), "{told:?}");
                assert!(!told.contains('\n'), "{told:?}");
                assert_eq!(told.contains(&word), status.starts_with("400"), "{told:?}");
                let story = rill(&app, &["task", &posted.task]).await.out;
                assert!(!story.contains(is_hidden), "{story:?}");
                assert!(story.contains(&word) && story.contains("org-AbCdEf12"), "{story}");
                assert!(!story.lines().any(|line| line.starts_with("2026")), "{story}");
                let story = rill(&app, &["task", &posted.task, "--json"]).await.out;
                assert!(!story.contains(is_hidden) && story.contains(&word), "{story:?}");
            }
            let line = app.workers[0].logged(&word).await;
            assert!(line.contains("org-AbCdEf12"), "{line}");
        }
        let log = app.workers[0].log();
        assert!(!log.contains(is_hidden), "{log:?}");
        assert!(log.lines().filter(|line| line.contains("FORGED")).all(|l| l.contains("org-")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_on_a_private_network_is_refused_with_its_field() {
    let app = App::builder().workers(0).start().await;
    let conversation = app.conversation().await;
    let path = format!("/v1/conversations/{conversation}/messages");
    let image = |url: &str| {
        json!({ "content": [{ "type": "text", "text": "what is this?" },
                            { "type": "image_url", "image_url": { "url": url } }] })
    };
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0x7f.1/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://localhost/x",
        "https://metadata.google.internal/x",
        "https://a.example@127.0.0.1/x",
    ] {
        let (status, problem) = app.post(&path, image(url)).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid_body")), "{url}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], "/content/1/image_url/url", "{problem}");
    }
    for url in ["https://a.example/b.png", "data:image/png;base64,AA=="] {
        assert_eq!(app.post(&path, image(url)).await.0, 202, "{url}");
    }
    for (option, url, expected) in [
        ("any", "http://10.0.0.7/x", 202),
        ("none", "https://a.example/b.png", 422),
        ("none", "data:image/png;base64,AA==", 202),
    ] {
        let (_api, base) = app.start_api_with(&[("RILL_IMAGE_URLS", option)]).await;
        let request = app.client.post(format!("{base}{path}")).json(&image(url));
        let status = request.send().await.expect("answers").status();
        assert_eq!(status.as_u16(), expected, "{option}: {url}");
    }
}
