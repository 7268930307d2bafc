//! A crash, or a lost request or reply, between any two steps: no job is lost,
//! a duplicate does no harm, no healthy run is taken over.
//!
//! Each step is a request to PostgreSQL or Redis. Each is frozen before the
//! server sees it and after it was answered, and then the worker is killed, or
//! its connections are cut while it lives. A sound worker is there to take over.

use super::scenes::{
    AGAIN, Cost, ONCE, Scene, each, is_acknowledgement, is_end, is_terminal, postgres, redis,
};

const ANSWER: &str = "[[tokens=40]] [[rate=200]] [[ttft=0ms]]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_begun_once_whatever_happens_while_it_is_claimed() {
    let steps = [
        redis(
            "delivery",
            |text, _| text.starts_with("XREADGROUP") && text.ends_with('>'),
            [ONCE; 2],
            ONCE,
        ),
        postgres("begin", |text, _| text.contains("WITH seen AS"), [ONCE, (2, 1, 1, 1)], ONCE),
        postgres("prompt", |text, _| text.contains("'system' AS role"), [(2, 1, 1, 1); 2], ONCE),
    ];
    each(Scene::Claims, ANSWER, "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_streamed_is_exact_whatever_happens_to_an_append() {
    let steps = [
        redis("started", |text, _| text.contains(" 1-0 e started "), [(2, 1, 1, 2); 2], ONCE),
        redis("a delta", |text, _| text.contains(" 1-2 e delta "), [AGAIN; 2], ONCE),
        redis("complete", |text, _| text.contains(" e complete "), [AGAIN, (2, 1, 1, 1)], ONCE),
    ];
    each(Scene::Claims, ANSWER, "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_kept_whatever_happens_while_it_is_renewed() {
    let renews = |text: &str, task: &str| {
        text.starts_with("EVALSHA") && !text.contains(task) && text.split(' ').count() == 7
    };
    let steps = [
        postgres("heartbeat", |text, _| text.contains("INSERT INTO workers"), [AGAIN; 2], ONCE),
        redis("renewal of jobs", renews, [AGAIN; 2], ONCE),
        redis("renewal of streams", |text, _| text.starts_with("PEXPIRE"), [AGAIN; 2], ONCE),
    ];
    each(Scene::Streams, "[[tokens=160]] [[rate=40]]", "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_stored_once_whatever_happens_while_it_is_finished() {
    let steps = [
        postgres("end", |text, _| is_end(text), [(2, 1, 1, 1), ONCE], ONCE),
        redis("terminal event", |text, _| is_terminal(text), [ONCE; 2], ONCE),
        redis("acknowledgement", |text, _| is_acknowledgement(text), [ONCE; 2], ONCE),
    ];
    each(Scene::Claims, ANSWER, "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_try_follows_whatever_happens_while_one_is_given_up() {
    let retries = |text: &str, _: &str| text.contains("SET status = 'queued', failures = $6");
    let steps = [
        postgres("retry", retries, [AGAIN; 2], AGAIN),
        redis("retrying", |text, _| text.contains(" e retrying "), [AGAIN; 2], AGAIN),
    ];
    each(Scene::Claims, "[[cut=20*1]] [[tokens=40]] [[rate=60]]", "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_job_is_added_whatever_happens_to_the_relay() {
    let steps = [
        postgres("relay", |text, _| text.contains("pg_try_advisory_xact_lock"), [ONCE; 2], ONCE),
        redis(
            "XADD",
            |text, task| text.ends_with(&format!("{{jobs}}:generate * task {task}")),
            [ONCE; 2],
            ONCE,
        ),
    ];
    each(Scene::Relays, ANSWER, "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_handed_over_whatever_happens_while_its_worker_drains() {
    let hands_back = |text: &str, task: &str| text.starts_with("EVALSHA") && text.contains(task);
    let released: Cost = (2, 0, 2, 2);
    let steps = [
        postgres(
            "release",
            |text, _| text.contains("ELSE 'yielded' END"),
            [AGAIN, released],
            released,
        ),
        redis("hand back", hands_back, [released; 2], released),
    ];
    each(Scene::Drains, "[[stall=20*1]] [[tokens=40]] [[rate=400]]", "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_left_to_a_newer_worker_whatever_happens_while_it_is() {
    // Eight times left, and begun again; charged is only a worker that dies with it.
    let (left, charged): (Cost, Cost) = ((10, 0, 1, 1), (10, 1, 1, 1));
    let steps = [
        redis(
            "history",
            |text, task| text.starts_with("XRANGE") && text.contains(task),
            [charged; 2],
            left,
        ),
        postgres("release", |text, _| text.contains("ELSE 'yielded' END"), [charged, left], left),
        redis("acknowledgement", |text, _| is_acknowledgement(text), [left; 2], left),
    ];
    each(Scene::LeavesToNewer, ANSWER, "done", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_given_up_is_a_dead_letter_whatever_happens_meanwhile() {
    let failed: Cost = (1, 1, 1, 1);
    let steps = [
        postgres("end", |text, _| is_end(text), [(2, 2, 2, 2), failed], failed),
        redis("terminal event", |text, _| is_terminal(text), [failed; 2], failed),
        redis(
            "dead letter",
            |text, _| text.starts_with("EVALSHA") && text.contains(":dead "),
            [failed; 2],
            failed,
        ),
    ];
    each(Scene::Claims, "[[cut=5*99]] [[tokens=40]] [[rate=400]]", "failed", &steps).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_left_is_finished_whatever_happens_to_who_takes_over() {
    let (taken, twice): (Cost, Cost) = ((2, 1, 1, 1), (3, 2, 1, 1));
    let steps = [
        postgres("begin", |text, _| text.contains("WITH seen AS"), [taken, twice], taken),
        redis(
            "history",
            |text, task| text.starts_with("XRANGE") && text.contains(task),
            [twice; 2],
            taken,
        ),
        postgres("end", |text, _| is_end(text), [twice, taken], taken),
        redis("terminal event", |text, _| is_terminal(text), [taken; 2], taken),
    ];
    each(Scene::TakesOver, ANSWER, "done", &steps).await;
    let steps = [redis("XAUTOCLAIM", |text, _| text.starts_with("XAUTOCLAIM"), [taken; 2], taken)];
    each(Scene::Reclaims, ANSWER, "done", &steps).await;
}
