//! What shares a statement: each gets what it would have got alone.

use std::time::Duration;

use futures_util::future::join_all;
use rill::domain::message::Role;
use rill::domain::{
    AccountId, Answer, ClaimId, ConversationId, Event, EventId, MessageId, TaskId, TaskStatus,
    WorkerId,
};
use rill::store::{
    Accepted, Begin, EndOutcome, Ending, Final, Idempotency, NewPrompt, NewTask, Parent, Store,
    TaskError,
};
use serde_json::json;

use crate::statements::{since, statements};
use crate::support::App;

const LEASE: Duration = Duration::from_secs(5);

fn message(conversation: ConversationId, text: &str, key: Option<&str>) -> NewTask {
    NewTask {
        account: AccountId::BUILT_IN,
        conversation,
        task: TaskId::generate(),
        prompt: NewPrompt {
            id: MessageId::generate(),
            role: Role::User,
            content: json!(text).to_string(),
        },
        parent: Parent::Newest,
        message: MessageId::generate(),
        model: "simulator".to_owned(),
        parameters: "{}".to_owned(),
        idempotency: key.map(|key| {
            let mut hash = [0; 32];
            hash[..text.len()].copy_from_slice(text.as_bytes());
            Idempotency { key: key.to_owned(), hash }
        }),
        traceparent: None,
        deadline: Duration::from_secs(60),
    }
}

async fn conversations(app: &App, count: usize) -> Vec<ConversationId> {
    let mut conversations = Vec::new();
    for _ in 0..count {
        conversations.push(app.conversation().await.parse().expect("a conversation"));
    }
    conversations
}

/// The calls, since `before`, of statements that begin so.
async fn calls(app: &App, before: &std::collections::BTreeMap<String, i64>, start: &str) -> i64 {
    let calls = since(before, &statements(app).await);
    calls.iter().filter(|(query, _)| query.starts_with(start)).map(|(_, calls)| calls).sum()
}

async fn app() -> App {
    let app = App::builder().workers(0).start().await;
    sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .execute(&app.pool)
        .await
        .expect("extension");
    app
}

/// Asked in one poll of one thread, they surely share a statement.
#[tokio::test]
async fn messages_that_are_accepted_together_are_each_accepted_once() {
    let app = app().await;
    let said = conversations(&app, 6).await;
    let store = app.store();
    let before = statements(&app).await;
    let nowhere = ConversationId::generate();
    let all = [
        message(said[0], "plain", None),
        message(said[1], "with a key", Some("a")),
        // The same request, and another, by the same key; elsewhere, as one
        // statement changes a conversation once.
        message(said[2], "with a key", Some("a")),
        message(said[3], "another", Some("a")),
        message(nowhere, "lost", None),
        message(said[4], "plain, too", None),
        // A second in the same conversation, and a third.
        message(said[0], "second", None),
        message(said[0], "third", None),
    ];
    let accepted = join_all(all.iter().map(|new| store.accept(new.clone()))).await;
    let accepted: Vec<_> = accepted.into_iter().map(|a| a.expect("an answer")).collect();
    let (task, message_id) = (all[1].task, all[1].message);
    assert_eq!(
        accepted,
        [
            Accepted::New,
            Accepted::New,
            Accepted::Repeated { task, message: message_id },
            Accepted::KeyReused,
            Accepted::NoConversation,
            Accepted::New,
            Accepted::New,
            Accepted::New,
        ]
    );
    assert_eq!(calls(&app, &before, "WITH conversation AS").await, 3, "one, and one a repeat");
    for conversation in [said[0], said[2]] {
        let stored = store.messages(AccountId::BUILT_IN, conversation, None, 100).await;
        let stored = stored.expect("reads").expect("a conversation").items;
        let said: Vec<_> = stored.iter().filter_map(|m| m.content.clone()).collect();
        let expected: &[_] =
            if conversation == all[0].conversation { &["plain", "second", "third"] } else { &[] };
        assert_eq!(said, expected);
        for (n, message) in stored.iter().enumerate() {
            assert_eq!(message.position, i64::try_from(n).expect("few"));
            assert_eq!(message.parent, n.checked_sub(1).map(|before| stored[before].id));
        }
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_spoils_none_that_comes_with_it() {
    let app = app().await;
    let said = conversations(&app, 3).await;
    let store = app.store();
    // PostgreSQL's texts have no NUL.
    let all = [
        message(said[0], "fine", None),
        NewTask { model: "a \0".to_owned(), ..message(said[1], "odd", None) },
        message(said[2], "fine", None),
    ];
    let accepted = join_all(all.into_iter().map(|new| store.accept(new))).await;
    assert_eq!(*accepted[0].as_ref().expect("an answer"), Accepted::New);
    assert!(accepted[1].as_ref().is_err_and(rill::store::Error::is_permanent), "{accepted:?}");
    assert_eq!(*accepted[2].as_ref().expect("an answer"), Accepted::New);
}

#[tokio::test]
async fn a_row_that_somebody_holds_holds_up_nobody_elses_task() {
    let app = app().await;
    let store = app.store();
    let me = worker(&store).await;
    let tasks = queued(&app, &store, 3).await;
    let mut held = app.pool.begin().await.expect("a transaction");
    for table in ["tasks WHERE conversation_id", "conversations WHERE id"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("SELECT FROM {table} = $1 FOR UPDATE")))
            .bind(tasks[1].conversation.0)
            .execute(&mut *held)
            .await
            .expect("is locked");
    }
    let accept = |n: usize| store.accept(message(tasks[n].conversation, "more", None));
    let begin = |n: usize| {
        store.begin_attempt(tasks[n].task, ClaimId(uuid::Uuid::new_v4()), me, 10 * LEASE, false)
    };
    let (accepted, begun) =
        tokio::join!(join_all([0, 1, 2].map(accept)), join_all([0, 1, 2].map(begin)));
    for n in [0, 2] {
        assert_eq!(*accepted[n].as_ref().expect("an answer"), Accepted::New);
        assert!(matches!(begun[n], Ok(Begin::Begun(_))), "{begun:?}");
    }
    let unavailable = rill::store::Error::is_unavailable;
    assert!(accepted[1].as_ref().is_err_and(unavailable), "{accepted:?}");
    assert!(begun[1].as_ref().is_err_and(unavailable), "{begun:?}");
    held.rollback().await.expect("is let go");
    assert_eq!(accept(1).await.expect("an answer"), Accepted::New);
    assert!(matches!(begin(1).await, Ok(Begin::Begun(_))));
}

async fn queued(app: &App, store: &Store, count: usize) -> Vec<NewTask> {
    let new: Vec<_> = conversations(app, count)
        .await
        .into_iter()
        .enumerate()
        .map(|(n, conversation)| message(conversation, &format!("number {n}"), None))
        .collect();
    for accepted in join_all(new.iter().map(|new| store.accept(new.clone()))).await {
        assert_eq!(accepted.expect("an answer"), Accepted::New);
    }
    new
}

async fn worker(store: &Store) -> WorkerId {
    let worker = WorkerId::generate();
    store.heartbeat(worker, LEASE, &[]).await.expect("a heartbeat");
    worker
}

#[tokio::test]
async fn attempts_that_begin_together_are_each_begun_as_if_alone() {
    let app = app().await;
    let store = app.store();
    let (me, other) = (worker(&store).await, worker(&store).await);
    let tasks = queued(&app, &store, 4).await;
    let begin = |task: TaskId, claim: ClaimId, worker: WorkerId| {
        store.begin_attempt(task, claim, worker, LEASE, false)
    };
    let claim = || ClaimId(uuid::Uuid::new_v4());
    let theirs = begin(tasks[0].task, claim(), other).await.expect("an answer");
    assert!(matches!(theirs, Begin::Begun(_)));
    let mine = claim();
    let before = statements(&app).await;
    let begun = join_all([
        begin(tasks[0].task, claim(), me),
        begin(tasks[1].task, mine, me),
        begin(TaskId::generate(), claim(), me),
        begin(tasks[2].task, claim(), me),
        // Nobody whose heartbeat is on record.
        begin(tasks[3].task, claim(), WorkerId::generate()),
        // Two jobs of one task.
        begin(tasks[2].task, claim(), me),
    ])
    .await;
    let begun: Vec<_> = begun.into_iter().map(|b| b.expect("an answer")).collect();
    for (n, task) in [(1, &tasks[1]), (3, &tasks[2])] {
        let Begin::Begun(begun) = &begun[n] else { panic!("{begun:?}") };
        assert_eq!((begun.attempt, begun.failures), (1, 0));
        assert_eq!((begun.conversation, begun.message), (task.conversation, task.message));
    }
    assert!(matches!(begun[0], Begin::Duplicate), "{begun:?}");
    assert!(matches!(begun[2], Begin::Duplicate), "{begun:?}");
    assert!(matches!(begun[4], Begin::Later), "{begun:?}");
    assert!(matches!(begun[5], Begin::Duplicate), "{begun:?}");
    assert_eq!(calls(&app, &before, "WITH seen AS").await, 2, "one, and one a repeat");
    // A claim whose reply was lost.
    let again = join_all([begin(tasks[1].task, mine, me), begin(tasks[3].task, claim(), me)]).await;
    for begun in again {
        let Begin::Begun(begun) = begun.expect("an answer") else { panic!("not begun") };
        assert_eq!(begun.attempt, 1);
    }
    let prompts = tasks.iter().map(|task| store.small_prompt(task.conversation, task.message));
    for (n, turns) in join_all(prompts).await.into_iter().enumerate() {
        let turns = serde_json::to_string(&format!("{:?}", turns.expect("a prompt")));
        assert!(turns.expect("text").contains(&format!("number {n}")));
    }
}

#[tokio::test]
async fn ends_that_are_committed_together_are_each_committed_as_if_alone() {
    let app = app().await;
    let store = app.store();
    let me = worker(&store).await;
    let tasks = queued(&app, &store, 5).await;
    for task in &tasks {
        let begun =
            store.begin_attempt(task.task, ClaimId(uuid::Uuid::new_v4()), me, LEASE, false).await;
        assert!(matches!(begun, Ok(Begin::Begun(_))), "{begun:?}");
    }
    let end = |task: &NewTask, text: &str, failed: bool| Final {
        status: if failed { TaskStatus::Failed } else { TaskStatus::Done },
        id: EventId::new(1, 7),
        data: Event::Cancelled { message_id: task.message, usage: None }.encode().data,
        answer: Answer { text: text.to_owned(), ..Answer::default() },
        finish_reason: (!failed).then(|| "stop".to_owned()),
        usage: None,
        error: failed.then(|| TaskError { code: "x".to_owned(), message: "y".to_owned() }),
        failures: failed.then_some(3),
    };
    let running = |attempt| Ending { attempt, status: TaskStatus::Running, claim: None };
    let repeated = end(&tasks[0], "zero", false);
    let first = store.end(tasks[0].task, running(1), &repeated).await.expect("an answer");
    assert!(matches!(first, EndOutcome::Committed(Some(_))), "{first:?}");
    let before = statements(&app).await;
    let last = [
        repeated,
        end(&tasks[1], "one", false),
        end(&tasks[2], "two", true),
        end(&tasks[3], "three", false),
        // PostgreSQL's texts have no NUL.
        end(&tasks[4], "fo\0ur", false),
    ];
    let attempts = [1, 1, 1, 2, 1];
    let ends = tasks.iter().zip(&last).zip(attempts);
    let ended =
        join_all(ends.map(|((task, last), attempt)| store.end(task.task, running(attempt), last)))
            .await;
    assert!(matches!(ended[0], Ok(EndOutcome::Committed(None))), "{ended:?}");
    assert!(matches!(ended[1], Ok(EndOutcome::Committed(Some(_)))), "{ended:?}");
    assert!(matches!(ended[2], Ok(EndOutcome::Committed(Some(_)))), "{ended:?}");
    assert!(matches!(ended[3], Ok(EndOutcome::Refused)), "{ended:?}");
    assert!(ended[4].as_ref().is_err_and(rill::store::Error::is_permanent), "{ended:?}");
    // Together, in vain; then each alone. (Who asked first may have gone alone at once, or
    // with the second.)
    let calls = calls(&app, &before, "WITH ended AS").await;
    assert!((3..=4).contains(&calls), "{calls}");
    let answers = [Some("zero"), Some("one"), Some("two"), None, None];
    for (task, answer) in tasks.iter().zip(answers) {
        let stored = store.messages(AccountId::BUILT_IN, task.conversation, None, 100).await;
        let stored = stored.expect("reads").expect("a conversation").items;
        assert_eq!(stored[1].answer.as_deref(), answer);
    }
    let failed = store.task(AccountId::BUILT_IN, tasks[2].task).await.expect("reads");
    let failed = failed.expect("a task");
    assert_eq!((failed.status, failed.failures, failed.attempt), (TaskStatus::Failed, 3, 1));
    assert_eq!(failed.error.expect("why").code, "x");
}
