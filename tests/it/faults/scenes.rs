//! How a worker comes to a step, and what is done to it there.

use std::ops::RangeInclusive;

use redis::AsyncCommands;

use super::stage::{Expected, Fault, Stages, jobs, play, steady, without_relay};
use crate::support::{App, Cut, Freeze, Posted, Proxy, eventually, typed};

/// A request, and what the task comes to when something happens at it.
#[derive(Clone, Copy)]
pub(super) struct Step {
    name: &'static str,
    server: Server,
    /// Tells it by its text, and the task.
    is_it: fn(&str, &str) -> bool,
    /// The worker killed before it, and after it.
    killed: [Cost; 2],
    /// The connection cut, before or after it.
    cut: Cost,
}

#[derive(Clone, Copy)]
enum Server {
    Redis,
    Postgres,
}

/// Attempts, charges (failures, and workers lost), and calls of the model, at least and at most.
pub(super) type Cost = (u64, u64, u64, u64);

/// How the worker under fault comes to its step.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scene {
    /// A task is waiting.
    Claims,
    /// It streams.
    Streams,
    /// It is told to stop, mid-stream.
    Drains,
    /// A task is waiting whose job Redis has lost.
    Relays,
    /// Another worker was killed after the model had finished.
    TakesOver,
    /// The same, and it is the first to look for what that one left.
    Reclaims,
    /// A newer worker, which is gone, has left content that it doesn't understand.
    LeavesToNewer,
}

/// Uncharged, once.
pub(super) const ONCE: Cost = (1, 0, 1, 1);
/// The killed worker is charged, the model called again.
pub(super) const AGAIN: Cost = (2, 1, 2, 2);

pub(super) async fn each(scene: Scene, prompt: &'static str, end: &'static str, steps: &[Step]) {
    let (stages, mut cases) = (Stages::default(), Vec::new());
    for step in steps {
        for freeze in [Freeze::Before, Freeze::After] {
            for fault in [Fault::Killed, Fault::Cut] {
                let name = format!("{} – {fault:?} {freeze:?}", step.name);
                cases.push((name, case(&stages, scene, prompt, end, *step, freeze, fault)));
            }
        }
    }
    play(cases).await;
}

async fn case(
    stages: &Stages,
    scene: Scene,
    prompt: &str,
    end: &'static str,
    step: Step,
    freeze: Freeze,
    fault: Fault,
) {
    // One that lives must not lose its lease because the machine is busy.
    let (lease, heartbeat) = match fault {
        Fault::Killed => (1500, "400ms"),
        Fault::Cut => (2000, "600ms"),
    };
    let options = [
        ("RILL_LEASE", &*format!("{lease}ms")),
        ("RILL_HEARTBEAT", heartbeat),
        ("RILL_DRAIN_GRACE", "50ms"),
        ("RILL_MAX_FAILURES", if end == "failed" { "1" } else { "9" }),
    ];
    let mut stage = stages.set(&options).await;
    // The simulator counts calls by prompt.
    let posted = stage.app.say(&format!("{prompt} {}", uuid::Uuid::new_v4())).await;
    let task = posted.task.clone();
    let victim = stage.victim();
    let arm = |redis: &Proxy, database: &Proxy| {
        let proxy = match step.server {
            Server::Redis => redis,
            Server::Postgres => database,
        };
        let (task, victim) = (task.clone(), victim.clone());
        proxy.trap(freeze, move |text| {
            let is_it = (step.is_it)(text, &task);
            if is_it && fault == Fault::Killed {
                victim.halt();
            }
            is_it
        })
    };
    if scene != Scene::Relays {
        // A worker that takes longer than a lease to start would add a second job.
        without_relay(&stage.app).await;
    }
    let mut reader = stage.app.reader(&posted);
    let mut first = stage.app.reader(&posted);
    let play = async {
        let trap = match scene {
            Scene::Claims => {
                let trap = arm(&stage.redis, &stage.database);
                stage.start_under_fault();
                trap
            }
            Scene::LeavesToNewer => {
                begun_by_a_newer_worker(&stage.app, &posted).await;
                let trap = arm(&stage.redis, &stage.database);
                stage.start_under_fault();
                trap
            }
            Scene::Relays => {
                forget_the_job(&stage.app).await;
                // It adds the job, and can't take it.
                stage.redis.trap(Freeze::Before, |text| {
                    text.starts_with("XREADGROUP") && text.ends_with('>')
                });
                let trap = arm(&stage.redis, &stage.database);
                stage.start_under_fault();
                trap
            }
            Scene::Streams => {
                stage.start_under_fault();
                first.connect(Cut::AfterEvents(3)).await.expect("connects");
                arm(&stage.redis, &stage.database)
            }
            Scene::Drains => {
                let trap = arm(&stage.redis, &stage.database);
                stage.start_under_fault();
                // All that is said may be one event, on a machine that is busy.
                first.connect(Cut::AfterEvents(2)).await.expect("connects");
                stage.app.workers[0].signal("TERM");
                trap
            }
            Scene::TakesOver | Scene::Reclaims => {
                let before = Proxy::before(&stage.app.database_url()).await;
                let held = before.trap(Freeze::Before, is_end);
                stage.start(None, Some(before.address()));
                held.sprung().await;
                without_relay(&stage.app).await;
                if scene == Scene::TakesOver {
                    stage.start_under_fault();
                    steady(&stage.app, 2, lease).await;
                }
                let trap = (scene == Scene::TakesOver).then(|| arm(&stage.redis, &stage.database));
                stage.app.workers[0].kill();
                before.cut();
                match trap {
                    Some(trap) => trap,
                    None => {
                        left_for_a_lease(&stage.app, lease).await;
                        let trap = arm(&stage.redis, &stage.database);
                        stage.start_under_fault();
                        trap
                    }
                }
            }
        };
        trap.sprung().await;
        let attempt: i64 = sqlx::query_scalar("SELECT attempt FROM tasks WHERE id = $1::uuid")
            .bind(&task)
            .fetch_one(&stage.app.pool)
            .await
            .expect("reads");
        stage.strike(fault);
        stage.start_sound();
        attempt
    };
    let ((), attempt) = tokio::join!(reader.follow([]), play);
    // On a machine that is busy, it was not steady, and told to come later.
    let told_later = step.name == "begin" && attempt < 1 + i64::from(scene == Scene::TakesOver);
    let (attempts, failures, least, most) = match (fault, freeze) {
        (Fault::Cut, _) => step.cut,
        (Fault::Killed, Freeze::After) if !told_later => step.killed[1],
        (Fault::Killed, _) => step.killed[0],
    };
    let letters = usize::from(end == "failed");
    let calls: RangeInclusive<u64> = least..=most;
    let expected = Expected { end, attempts, failures, calls, letters };
    stage.ended_well(&posted, &reader, &expected).await;
    stages.clear(stage).await;
}

/// As if a newer worker had handed it back in the middle of its answer.
async fn begun_by_a_newer_worker(app: &App, posted: &Posted) {
    sqlx::query("UPDATE tasks SET attempt = 1 WHERE id = $1::uuid")
        .bind(&posted.task)
        .execute(&app.pool)
        .await
        .expect("updates");
    let (key, mut redis) = (app.stream_key(posted), app.redis().await);
    for (seq, name, fields) in [
        (0, "started", r#"{"attempt":1,"model":"simulator"}"#),
        (1, "content.newer", r#"{"said":"something"}"#),
        (2, "complete", r#"{"finish_reason":"stop","usage":null}"#),
    ] {
        let fields = [("e", name), ("d", &typed(name, fields))];
        let _: String = redis.xadd(&key, format!("1-{seq}"), &fields).await.expect("XADD");
    }
    let _: bool = redis.expire(&key, 600).await.expect("EXPIRE");
}

/// As if Redis had lost it, and accepting had noticed.
async fn forget_the_job(app: &App) {
    let _: () = app.redis().await.del(jobs(app)).await.expect("DEL");
    sqlx::query("UPDATE tasks SET enqueued_at = NULL WHERE status = 'queued'")
        .execute(&app.pool)
        .await
        .expect("updates");
}

/// Waits until the pending job was not renewed for a lease.
async fn left_for_a_lease(app: &App, lease: u64) {
    let (redis, jobs) = (app.redis().await, jobs(app));
    eventually("a job is left for a lease", || {
        let (mut redis, jobs) = (redis.clone(), jobs.clone());
        async move {
            let mut command = redis::cmd("XPENDING");
            command.arg(&jobs).arg("workers").arg("IDLE").arg(lease).arg(&["-", "+", "1"]);
            let left: Vec<redis::Value> = command.query_async(&mut redis).await.expect("XPENDING");
            !left.is_empty()
        }
    })
    .await;
}

pub(super) fn is_end(text: &str) -> bool {
    text.contains("WITH ended AS")
}

pub(super) fn is_terminal(text: &str) -> bool {
    text.starts_with("MULTI") && [" e done ", " e failed "].iter().any(|end| text.contains(end))
}

pub(super) fn is_acknowledgement(text: &str) -> bool {
    text.contains("XACK ")
}

pub(super) const fn redis(
    name: &'static str,
    is_it: fn(&str, &str) -> bool,
    killed: [Cost; 2],
    cut: Cost,
) -> Step {
    Step { name, server: Server::Redis, is_it, killed, cut }
}

pub(super) const fn postgres(
    name: &'static str,
    is_it: fn(&str, &str) -> bool,
    killed: [Cost; 2],
    cut: Cost,
) -> Step {
    Step { name, server: Server::Postgres, is_it, killed, cut }
}
