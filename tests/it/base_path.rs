//! Under a path of a proxy's: page, streams, document and links are where browsers
//! find them.

use serde_json::{Value, json};

use crate::support::{App, Nginx, Reader};

const PUBLIC: &str = "https://example.com/chat/";

/// What a page loads, as it refers to it.
fn references(page: &str) -> Vec<String> {
    let of = |name: &str| {
        let rests = page.split(name).skip(1);
        rests.filter_map(|rest| rest.split('"').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    [of("href=\""), of("src=\"")].concat().into_iter().filter(|to| !to.starts_with('#')).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_under_a_path_everything_is_found() {
    let app = App::builder().with("RILL_PUBLIC_URL", PUBLIC).start().await;
    let api = app.url.strip_prefix("http://").expect("an address");
    let nginx = Nginx::start(&[
        // The path is taken off; nginx names the upstream as the host.
        format!("location /chat/ {{ proxy_pass http://{api}/; }}"),
        // The host is passed on.
        format!("location /chat/ {{ proxy_pass http://{api}/; proxy_set_header Host $host; }}"),
        // The path is left.
        format!("location /chat {{ proxy_pass http://{api}; proxy_set_header Host $host; }}"),
    ])
    .await;
    let unled = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let unled = unled.build().expect("a client");
    for proxy in nginx.urls() {
        let root = reqwest::Url::parse(&format!("{proxy}/chat/")).expect("a URL");
        let at = |path: &str| root.join(path).expect("a URL");
        let get = async |url: reqwest::Url| {
            let answer = app.client.get(url.clone()).header("Host", "example.com").send().await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), 200, "{url}");
            answer.text().await.expect("text")
        };
        let page = get(root.clone()).await;
        let found = references(&page);
        assert!(found.len() >= 5, "{found:?}");
        for reference in found {
            get(at(&reference)).await;
        }
        let document: Value = serde_json::from_str(&get(at("openapi.json")).await).expect("JSON");
        assert_eq!(document["servers"][0]["url"], "https://example.com/chat");
        assert!(get(at("docs")).await.contains("https://example.com/chat"));
        // Without its slash, the page wouldn't find what it loads.
        let slash = unled.get(format!("{proxy}/chat")).header("Host", "example.com");
        let slash = slash.send().await.expect("an answer");
        assert!(slash.status().is_redirection(), "{slash:?}");
        let location = slash.headers()["location"].to_str().expect("text");
        assert!(location.ends_with("/chat/"), "{location}");

        let post = async |url: reqwest::Url, origin: &str, body: Value| {
            let request = app.client.post(url).header("Host", "example.com");
            let answer = request.header("Origin", origin).json(&body).send().await;
            let answer = answer.expect("an answer");
            (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
        };
        let ours = "https://example.com";
        let (status, conversation) = post(at("v1/conversations"), ours, json!({})).await;
        assert_eq!(status, 201, "{conversation}");
        let messages = at(&format!(
            "v1/conversations/{}/messages",
            conversation["id"].as_str().expect("an ID")
        ));
        let (status, accepted) =
            post(messages.clone(), ours, json!({"content": "[[tokens=20]] [[rate=0]]"})).await;
        assert_eq!(status, 202, "{accepted}");
        let (status, refused) =
            post(messages.clone(), "https://evil.example", json!({"content": "x"})).await;
        assert_eq!((status, &refused["code"]), (403, &json!("foreign_origin")));

        let stream = accepted["stream_url"].as_str().expect("a reference");
        assert!(stream.starts_with("/chat/v1/tasks/"), "{stream}");
        let stream = messages.join(stream).expect("a URL");
        let mut reader = Reader::new(app.client.clone(), stream.to_string());
        reader.follow([]).await;
        assert!(!reader.answer.text.is_empty());
        let task =
            get(at(&format!("v1/tasks/{}", accepted["task_id"].as_str().expect("an ID")))).await;
        let task: Value = serde_json::from_str(&task).expect("JSON");
        assert_eq!(task["stream_url"], accepted["stream_url"]);
    }
}
