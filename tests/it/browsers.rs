//! What a page of somebody else's can make a browser do to a rill on the same
//! machine, or in the same network: nothing.

use std::net::SocketAddr;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::support::{App, Process};

/// A client for which `name` is at `address`: an attacker's name, turned into ours.
fn rebound(name: &str, address: SocketAddr, http2: bool) -> Client {
    let builder = Client::builder().no_proxy().resolve(name, address);
    let builder = if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() };
    builder.build().expect("a client")
}

async fn code(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.text().await.expect("text");
    (status, serde_json::from_str::<Value>(&body).map_or(Value::Null, |body| body["code"].clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_turned_into_ours_is_not_served() {
    let app = App::builder().workers(0).start().await;
    let address: SocketAddr = app.url.strip_prefix("http://").expect("one").parse().expect("one");
    for http2 in [false, true] {
        let client = rebound("evil.example", address, http2);
        let at = |path: &str| format!("http://evil.example:{}{path}", address.port());
        for path in ["/", "/v1/conversations", "/v1/models", "/docs", "/assets/app.js", "/nothing"]
        {
            let refused = code(client.get(at(path))).await;
            assert_eq!(refused, (421, "unknown_host".into()), "{path}, HTTP/2: {http2}");
        }
        let post = client.post(at("/v1/conversations")).body("{}");
        assert_eq!(code(post).await, (421, "unknown_host".into()));
        for path in ["/healthz", "/readyz", "/metrics"] {
            let answer = client.get(at(path)).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
        }
        for name in ["localhost", "chat.localhost"] {
            let client = rebound(name, address, http2);
            let url = format!("http://{name}:{}/v1/models", address.port());
            assert_eq!(client.get(url).send().await.expect("an answer").status(), StatusCode::OK);
        }
    }
    let (_named, url) = app.start_api_with(&[("RILL_ALLOWED_HOSTS", "evil.example")]).await;
    let address: SocketAddr = url.strip_prefix("http://").expect("one").parse().expect("one");
    let client = rebound("evil.example", address, false);
    let url = format!("http://evil.example:{}/v1/models", address.port());
    assert_eq!(client.get(url).send().await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_can_t_cancel_say_or_delete_anything() {
    let app = App::builder().with("RILL_CORS_ORIGINS", "https://app.example").start().await;
    let posted = app.say("[[tokens=2000]] [[rate=20]]").await;
    app.reaches(&posted, "running").await;
    // Where all of the network reaches it, by whatever name.
    let everywhere = [("RILL_LISTEN", "0.0.0.0:0")];
    let (other, listening) = app.start_api_with(&everywhere).await;
    let listening = listening.replace("0.0.0.0", "127.0.0.1");
    let _other: Process = other;
    let cancel = format!("/v1/tasks/{}/cancel", posted.task);
    let conversation = format!("/v1/conversations/{}", posted.conversation);
    let messages = format!("{conversation}/messages");
    for base in [&app.url, &listening] {
        for (method, path) in [
            (Method::POST, &cancel),
            (Method::POST, &messages),
            (Method::PATCH, &conversation),
            (Method::DELETE, &conversation),
        ] {
            // As a form or a script sends it without asking first.
            let request = || {
                let request = app.client.request(method.clone(), format!("{base}{path}"));
                request.header("Content-Type", "text/plain").body(r#"{"content":"x"}"#)
            };
            for headers in [
                &[("Origin", "https://evil.example")][..],
                &[("Origin", "null")],
                &[("Origin", "http://127.0.0.1:1")],
                &[("Sec-Fetch-Site", "cross-site")],
                &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")],
            ] {
                let request = headers
                    .iter()
                    .fold(request(), |request, (name, value)| request.header(*name, *value));
                assert_eq!(
                    code(request).await,
                    (403, "foreign_origin".into()),
                    "{method} {path} {headers:?}"
                );
            }
        }
    }
    assert_eq!(app.task(&posted).await["status"], "running");
    let (_, items) = app.get(&messages).await;
    assert_eq!(items["items"].as_array().map(Vec::len), Some(2));
    // On all addresses any host is served; a page of its own may write there.
    let own =
        app.client.post(format!("{listening}/v1/conversations")).header("Host", "chat.example");
    let own = own.header("Origin", "http://chat.example").json(&serde_json::json!({}));
    assert_eq!(own.send().await.expect("an answer").status(), StatusCode::CREATED);
    // Pages that CORS allows, and clients that are no browsers.
    let allowed =
        app.client.post(format!("{}{cancel}", app.url)).header("Origin", "https://app.example");
    let allowed = allowed.header("Sec-Fetch-Site", "cross-site").send().await.expect("an answer");
    assert_eq!(allowed.status(), StatusCode::ACCEPTED);
    let plain = app.client.delete(format!("{}{conversation}", app.url)).send().await;
    assert_eq!(plain.expect("an answer").status(), StatusCode::NO_CONTENT);
}
