//! What happens to a conversation when its model's server is of the real world:
//! answers, errors and refusals byte for byte as they were reported.

use std::time::Duration;

use serde_json::{Value, json};

use crate::operators::rill;
use crate::support::{App, Posted, Provider, Script, eventually, refusal, stream};

const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const CALLS: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A chunk with that delta.
fn c(delta: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n")
}

fn says(text: &str) -> String {
    c(&json!({ "content": text }).to_string())
}

fn good(text: &str) -> Script {
    stream(&format!("{}{STOP}{DONE}", says(text)))
}

/// A rill whose model gives those answers in turn.
async fn asking(answers: Vec<Script>, options: &[(&str, &str)]) -> (App, Provider) {
    let provider = Provider::start(answers).await;
    let mut app = App::builder().with("OPENAI_BASE_URL", &provider.url).with("RILL_MODELS", "m");
    for (name, value) in options {
        app = app.with(name, value);
    }
    (app.start().await, provider)
}

/// How a task ended: its stored text, and the data of its end.
async fn ended(app: &App, posted: &Posted) -> (String, Value) {
    let end = app.read(posted).await.end.expect("an end");
    let data = serde_json::from_str(&end.data).expect("JSON");
    (app.stored(posted).await.text, data)
}

/// 3: genkit#6079; 10: oh-my-pi#9433, pydantic-ai#2996; 15: langchainjs#1929.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_never_stored_as_a_success_and_asked_again_only_where_that_may_help() {
    let overloaded = r#"data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"message":"Provider overloaded","code":502}}]}"#;
    let half = format!("{}{overloaded}\n\n{DONE}", says("Hello"));
    let quota = r#"{"error":{"message":"You exceeded your quota","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    let too_long = r#"data: {"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    let array = r#"[{"error":{"code":400,"message":"Invalid JSON payload"}}]"#;
    for (answers, calls, end, said) in [
        (vec![stream(&half)], 3, "failed", "Provider overloaded"),
        (vec![stream(&half), good("Hello again")], 2, "done", ""),
        // Whole, and no finish reason.
        (vec![stream(&format!("{}{DONE}", says("Hello")))], 1, "done", ""),
        // Nobody can tell: shown once more, and no third time.
        (vec![stream(&says("Hello"))], 2, "failed", "without a finish reason"),
        (
            vec![stream(&format!(
                "{}event: error\ndata: {{\"message\":\"model crashed\"}}\n\n",
                says("Hello")
            ))],
            3,
            "failed",
            "model crashed",
        ),
        (vec![refusal("429 Too Many Requests", quota)], 1, "failed", "You exceeded your quota"),
        (vec![stream(&format!("{}{too_long}\n\n", says("Hello")))], 1, "failed", "too long"),
        (
            vec![refusal(
                "422 Unprocessable Entity",
                r#"{"detail":[{"msg":"Extra inputs are not permitted"}]}"#,
            )],
            1,
            "failed",
            "Extra inputs are not permitted",
        ),
        (vec![refusal("400 Bad Request", array)], 1, "failed", "Invalid JSON payload"),
        (vec![refusal("400 Bad Request", "no such thing")], 1, "failed", "no such thing"),
        // The ending is odd, and the answer is there.
        (
            vec![stream(&format!(
                "{}{STOP}data: {{\"error\":\"usage is down\"}}\n\n",
                says("Hello")
            ))],
            1,
            "done",
            "",
        ),
    ] {
        let (app, provider) = asking(answers, &[]).await;
        let posted = app.say("hi").await;
        let (text, data) = ended(&app, &posted).await;
        assert_eq!(data["type"], end, "{said}: {data}");
        assert_eq!(provider.asked().len(), calls, "{said}: {data}");
        // Operators read all of it; users what is about their request.
        let message: Option<String> =
            sqlx::query_scalar("SELECT error_message FROM tasks WHERE id = $1::uuid")
                .bind(&posted.task)
                .fetch_one(&app.pool)
                .await
                .expect("reads");
        assert!(message.unwrap_or_default().contains(said), "{data}");
        let told = data["message"].as_str().unwrap_or_default();
        let is_own = ["too long", "Extra inputs", "Invalid JSON", "no such thing", "without a"];
        assert_eq!(
            told.contains(said),
            said.is_empty() || is_own.iter().any(|own| said.contains(own)),
            "{data}"
        );
        if end == "done" {
            assert!(text.starts_with("Hello"), "{text}");
        }
    }
}

/// 6a: aionrs#99, lmstudio#830; 6b: qwen-code#8382; 4a: vllm#19419, codex-relay#57.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_can_be_answered_whatever_their_ids_and_arguments_are() {
    let call = |index: u32, id: &str, arguments: &str| {
        let function = json!({ "name": "read", "arguments": arguments });
        json!({ "index": index, "id": id, "type": "function", "function": function })
    };
    for calls in [
        json!([call(0, "", "")]),
        json!([call(0, "same", "{\"p\":1}"), call(1, "same", "not JSON")]),
        json!([call(0, "a", "{\"p\":1}"), call(0, "b", "\"{\\\"p\\\":2}\"")]),
    ] {
        let answer =
            stream(&format!("{}{CALLS}{DONE}", c(&json!({ "tool_calls": calls }).to_string())));
        let (app, provider) = asking(vec![answer, good("thanks")], &[]).await;
        let posted = app.say("hi").await;
        let answer = app.read(&posted).await.answer;
        assert_eq!(answer.tool_calls.len(), calls.as_array().map_or(0, Vec::len));
        let ids: Vec<_> =
            answer.tool_calls.iter().map(|call| call.id.clone().expect("an ID")).collect();
        let results: Vec<_> =
            ids.iter().map(|id| json!({ "tool_call_id": id, "content": id })).collect();
        let answered = app.say_in(&posted.conversation, json!({ "tool_results": results })).await;
        assert_eq!(ended(&app, &answered).await.0, "thanks");
        let sent = provider.asked()[1].json();
        let sent = sent["messages"].as_array().expect("messages");
        let told = sent[1]["tool_calls"].as_array().expect("calls");
        assert_eq!(told.len(), ids.len());
        for (call, result) in told.iter().zip(&sent[2..]) {
            assert_eq!(call["id"], result["tool_call_id"]);
            let arguments = call["function"]["arguments"].as_str().expect("a string");
            assert!(serde_json::from_str::<Value>(arguments).expect("JSON").is_object());
        }
    }
}

/// 4b: vllm#6862.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_whatever_happened_in_it() {
    let no = refusal("400 Bad Request", "{\"error\":\"no\"}");
    let call =
        c(r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"read","arguments":""}}]}"#);
    let call = stream(&format!("{call}{CALLS}{DONE}"));
    let (app, provider) =
        asking(vec![no.clone(), good(" "), call, no.clone(), good("fine")], &[]).await;
    let first = app.say("one").await;
    assert_eq!(ended(&app, &first).await.1["type"], "failed");
    for body in [
        json!({ "content": "two" }),
        json!({ "content": "three" }),
        json!({ "tool_results": [{ "tool_call_id": "a", "content": "x" }] }),
        json!({ "content": "four" }),
    ] {
        let posted = app.say_in(&first.conversation, body).await;
        app.read(&posted).await;
    }
    let asked = provider.asked();
    assert_eq!(asked[1].json()["messages"], json!([{ "role": "user", "content": "one\n\ntwo" }]));
    // The blank answer is none.
    assert_eq!(asked[2].roles(), ["user"]);
    assert_eq!(asked[3].roles(), ["user", "assistant", "tool"]);
    assert_eq!(asked[4].roles(), ["user", "assistant", "tool", "assistant", "user"]);
}

/// 5a: continuedev#10193 (DeepSeek, Kimi); 5b: OpenMAIC#1556 (Gemini 3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_wants_back_is_sent_back_to_it_and_to_no_other() {
    let delta = r#"{"reasoning_content":"Hmm","reasoning_details":[{"x":1.50}],"tool_calls":[{"index":0,"id":"a",
        "function":{"name":"read","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}]}"#;
    let call = stream(&format!("{}{CALLS}{DONE}", c(&delta.replace('\n', ""))));
    let other = Provider::start(vec![good("hello")]).await;
    let upstreams = format!("other={}", other.url);
    let options = [("RILL_UPSTREAMS", upstreams.as_str()), ("RILL_MODELS", "m=openai,o=other")];
    let (app, provider) = asking(vec![call, good("thanks")], &options).await;
    let posted = app.say("hi").await;
    app.read(&posted).await;
    let results = json!({ "tool_results": [{ "tool_call_id": "a", "content": "x" }] });
    let answered = app.say_in(&posted.conversation, results).await;
    app.read(&answered).await;
    let sent = &provider.asked()[1];
    let message = &sent.json()["messages"][1];
    assert_eq!(message["reasoning_content"], "Hmm");
    assert!(sent.body.contains(r#""reasoning_details":[{"x":1.50}]"#), "{}", sent.body);
    assert_eq!(message["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "s");
    let elsewhere =
        app.say_in(&posted.conversation, json!({ "content": "you?", "model": "o" })).await;
    app.read(&elsewhere).await;
    let sent = &other.asked()[0];
    assert_eq!(sent.roles(), ["user", "assistant", "tool", "assistant", "user"]);
    for own in ["Hmm", "reasoning", "extra_content"] {
        assert!(!sent.body.contains(own), "{}", sent.body);
    }
}

/// 12: openai-agents-python#442 (Mistral, Azure Foundry); 16: ironclaw#942.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rill_added_and_a_server_refuses_is_left_out_from_then_on() {
    let refused = |name: &str| {
        let detail = json!({ "detail": [{ "loc": ["body", name], "msg": "Extra inputs are not permitted" }] });
        refusal("422 Unprocessable Entity", &detail.to_string())
    };
    let answers = vec![
        refused("stream_options"),
        refused("max_completion_tokens"),
        good("hello"),
        good("hello"),
        refused("seed"),
    ];
    let (app, provider) = asking(answers, &[]).await;
    let body = json!({ "content": "hi", "max_completion_tokens": 9, "seed": 1 });
    let conversation = app.conversation().await;
    for _ in 0..2 {
        let posted = app.say_in(&conversation, body.clone()).await;
        assert_eq!(ended(&app, &posted).await.1["type"], "done");
    }
    let asked = provider.asked();
    assert!(asked[0].json()["stream_options"].is_object());
    for later in &asked[2..4] {
        let json = later.json();
        assert_eq!((json.get("stream_options"), json.get("max_completion_tokens")), (None, None));
        assert_eq!((&json["max_tokens"], &json["seed"]), (&json!(9), &json!(1)));
    }
    assert_eq!(asked.len(), 4);
    // A parameter of the caller's fails by its name.
    let posted = app.say_in(&conversation, body).await;
    let (_, data) = ended(&app, &posted).await;
    assert!(data["message"].as_str().expect("a message").contains("body.seed"), "{data}");
    assert_eq!(provider.asked().len(), 5);
    let version = concat!("user-agent: rill/", env!("CARGO_PKG_VERSION"), "\r\n");
    assert!(asked[0].head.contains(version), "{}", asked[0].head);
    assert!(asked[0].head.contains("accept: text/event-stream\r\n"), "{}", asked[0].head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parameter_that_the_profile_drops_is_not_sent_and_the_task_says_so() {
    let profile =
        ("RILL_PROFILES", "openai=default:drop=seed:system_role=developer:stream_options=off");
    let (app, provider) = asking(vec![good("hello")], &[profile]).await;
    let (_, conversation) =
        app.post("/v1/conversations", json!({ "instructions": "Be brief." })).await;
    let conversation = conversation["id"].as_str().expect("an ID");
    let body = json!({ "content": "hi", "seed": 1, "top_p": 0.5 });
    let posted = app.say_in(conversation, body).await;
    let reader = app.read(&posted).await;
    let started: Value = serde_json::from_str(&reader.events[0].data).expect("JSON");
    assert_eq!(started["dropped_parameters"], json!(["seed"]));
    let sent = &provider.asked()[0];
    assert_eq!(sent.roles(), ["developer", "user"]);
    let sent = sent.json();
    assert_eq!(
        (sent.get("seed"), &sent["top_p"], sent.get("stream_options")),
        (None, &json!(0.5), None)
    );
}

/// 18: Floway#498, ds4#1006.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_comments_lives_unless_the_profile_says_otherwise() {
    let mut slow = stream("");
    for _ in 0..8 {
        slow.push((Duration::from_millis(400), ": working\n\n".to_owned()));
    }
    slow.push((Duration::ZERO, format!("{}{STOP}{DONE}", says("hello"))));
    for (profile, end) in
        [("openai=default", "done"), ("openai=default:signs_of_life=content", "failed")]
    {
        let options = [
            ("RILL_MODEL_IDLE_TIMEOUT", "2s"),
            ("RILL_PROFILES", profile),
            ("RILL_MAX_FAILURES", "1"),
        ];
        let (app, _) = asking(vec![slow.clone()], &options).await;
        let posted = app.say("hi").await;
        let (_, data) = ended(&app, &posted).await;
        assert_eq!(data["type"], end, "{profile}: {data}");
        if end == "failed" {
            assert_eq!(data["code"], "upstream_idle");
        }
    }
}

/// 7: bifrost#5148.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_are_sent_as_they_were_written_on_each_try_and_when_asked_for_again() {
    let busy = refusal("503 Service Unavailable", "{}");
    let cut = stream(&says("Hel"));
    let (app, provider) = asking(vec![busy, cut.clone(), cut, good("hello")], &[]).await;
    let written = r#""temperature":1.0,"response_format": {"type":"json_schema","json_schema":{"name":"n","schema":{"properties":{"zeta":{},"alpha":{"maximum":12345678901234567890123},"mid":{"minimum":0.10}}}}}"#;
    let conversation = app.conversation().await;
    let url = format!("{}/v1/conversations/{conversation}/messages", app.url);
    let body = format!(r#"{{"content":"hi",{written}}}"#);
    let request = app.client.post(url).header("content-type", "application/json").body(body);
    let accepted: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    let task = format!("/v1/tasks/{}", accepted["task_id"].as_str().expect("an ID"));
    eventually("the task fails", async || app.get(&task).await.1["status"] == "failed").await;
    let again = rill(&app, &["dead", "requeue", "--all"]).await;
    assert!(again.ok, "{}", again.out);
    eventually("it is asked for again", async || provider.asked().len() == 4).await;
    let sent = written.replace("\": {", "\":{");
    for asked in provider.asked() {
        assert!(asked.body.contains(&sent), "{sent} is not in {}", asked.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_with_a_query_is_asked_with_it_and_azure_s_key_is_in_its_own_header() {
    let path = "openai/deployments/gpt-4o";
    let asked = async |profile: &str, key: &str| {
        let provider = Provider::start(vec![good("hello")]).await;
        let base = provider.url.replace("/v1", &format!("/{path}/?api-version=2024-10-21&x=a%2fb"));
        let app = App::builder()
            .with("OPENAI_BASE_URL", &base)
            .with("OPENAI_API_KEY", key)
            .with("RILL_MODELS", "gpt-4o")
            .with("RILL_PROFILES", profile)
            .start()
            .await;
        let posted = app.say("hello").await;
        assert_eq!(app.read(&posted).await.answer.text, "hello");
        let head = provider.asked()[0].head.clone();
        let line = format!("post /{path}/chat/completions?api-version=2024-10-21&x=a%2fb http/1.1");
        assert_eq!(head.lines().next(), Some(line.as_str()));
        // Neither key nor query is anybody's to read.
        for log in [app.api.log(), app.workers[0].log()] {
            assert!(!log.contains(key) && !log.contains("2024-10-21"), "{log}");
        }
        let keys = head.lines().filter(|line| line.contains(&key.to_lowercase()));
        keys.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(asked("openai=azure", "0A1B2C").await, ["api-key: 0a1b2c"]);
    let token = "eyJ0eXAi.eyJhdWQi.c2ln";
    let bearer = format!("authorization: bearer {}", token.to_lowercase());
    assert_eq!(asked("openai=azure", token).await, [bearer]);
    let header = "openai=azure:key_header=authorization";
    assert_eq!(asked(header, "0A1B2C").await, ["authorization: bearer 0a1b2c"]);
    assert_eq!(asked("openai=vllm", "0A1B2C").await, ["authorization: bearer 0a1b2c"]);
}
