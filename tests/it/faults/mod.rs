//! The fault matrix: what breaks, and the test that shows rill surviving it.
//! Real processes, real servers, SIGKILL. A row's older tests are named, too.
//! All of them at once: [`crate::chaos`].
//!
//! | fault | promise kept by |
//! |---|---|
//! | worker killed: before the first token, mid-stream, after `complete`, after the commit, after the terminal event | `crashes::whenever_a_worker_is_killed_the_answer_goes_on_within_a_lease_and_two_seconds`, `takeover::a_task_outlives_its_worker` |
//! | worker stopped past its lease, then woken up | `zombies::what_a_sleeper_writes_after_it_was_replaced_changes_nothing`, `takeover::a_worker_that_wakes_up_after_its_lease_writes_nothing_more` |
//! | crash, lost request or lost reply between any two steps of: accept | `accepts::a_message_is_accepted_once_whatever_happens_meanwhile` |
//! | … claim and begin | `steps::a_job_is_begun_once_whatever_happens_while_it_is_claimed` |
//! | … appends | `steps::what_was_streamed_is_exact_whatever_happens_to_an_append` |
//! | … heartbeat and renewal | `steps::a_lease_is_kept_whatever_happens_while_it_is_renewed` |
//! | … finish | `steps::an_answer_is_stored_once_whatever_happens_while_it_is_finished` |
//! | … retry | `steps::another_try_follows_whatever_happens_while_one_is_given_up` |
//! | … relay | `steps::a_missing_job_is_added_whatever_happens_to_the_relay` |
//! | … release and hand back | `steps::a_task_is_handed_over_whatever_happens_while_its_worker_drains` |
//! | … leaving a task to a newer worker | `steps::a_task_is_left_to_a_newer_worker_whatever_happens_while_it_is`, `versions::an_answer_that_only_a_newer_worker_understands_is_left_to_one` |
//! | two versions at once | `versions`, `protocol::checks::the_promises_hold_between_two_versions_whatever_the_newer_one_writes` |
//! | another deployment's Redis or PostgreSQL behind the same address | `deployment` |
//! | … dead letter | `steps::a_task_that_is_given_up_is_a_dead_letter_whatever_happens_meanwhile` |
//! | … taking over | `steps::what_a_killed_worker_left_is_finished_whatever_happens_to_who_takes_over` |
//! | a job that kills its workers | `queue::a_poison_job_becomes_a_dead_letter_and_others_go_on`, `takeover::a_task_that_kills_its_workers_ends_as_a_dead_letter` |
//! | a malformed job | `queue::a_malformed_job_becomes_a_dead_letter_and_others_go_on` |
//! | a conversation deleted meanwhile | `queue::a_job_whose_conversation_was_deleted_is_put_aside_and_others_go_on`, `cancel::deleting_a_conversation_stops_its_answer` |
//! | an append's reply lost, a connection cut inside a pipeline | `appends::an_append_cut_in_the_middle_or_before_its_reply_is_there_once` |
//! | an append refused between two that pass | `appends::an_append_refused_for_want_of_memory_comes_between_its_neighbours` |
//! | Redis killed, its last second lost | `redis::redis_comes_back_without_its_last_second` |
//! | … FLUSHALL mid-stream | `redis::redis_is_flushed_mid_stream`, `outages::everything_that_redis_held_can_be_lost` |
//! | … its consumer group deleted | `redis::the_group_is_destroyed_mid_run` |
//! | … `maxmemory` reached | `redis::redis_is_full_for_seconds` |
//! | … away for long | `redis::redis_is_away_for_longer_than_a_lease`, `outages::redis_killed_mid_stream_costs_nothing_but_time` |
//! | PostgreSQL away at accept | `postgres::a_message_refused_without_postgresql_is_accepted_once_when_repeated` |
//! | … at begin | `postgres::a_job_waits_for_postgresql_unacknowledged_and_begins_once` |
//! | … at heartbeat and finish | `postgres::tokens_stream_without_postgresql_and_the_end_follows`, `outages::nobodys_healthy_run_is_stolen_when_postgresql_comes_back` |
//! | API killed | `drain::a_killed_api_loses_no_reader_anything` |
//! | rolling restart of everything | `deploys::a_rolling_restart_under_load_is_seen_by_nobody` |
//! | … reconnects at once | `deploys::reconnects_are_spread` |
//! | 2,000 readers dropped at once | `deploys::two_thousand_readers_dropped_at_once_cost_one_statement_each` |
//! | clients that never read | `readers::a_thousand_clients_that_never_read_harm_nobody` |
//! | one byte at a time | `readers::a_reader_of_one_byte_at_a_time_is_served_exactly` |
//! | slowloris | `readers::who_sends_slowly_is_cut_off_and_others_are_served` |
//! | clocks jump: rill's | `clocks::rills_clocks_jump_an_hour_and_nothing_happens` |
//! | clocks jump: Redis' | `clocks::redis_clock_jumps_an_hour_and_every_task_ends_exactly` |
//! | cancel: while queued, mid-stream, after the end | `cancel` |
//! | … at the last token | `faults::cancel::a_stop_at_the_last_token_ends_the_task_once`, `faults::cancel::a_stop_after_the_model_has_counted_keeps_text_and_usage` |
//! | … twice | `faults::cancel::stops_that_come_together_end_a_task_once` |
//! | … while being taken over | `faults::cancel::a_stop_while_a_task_is_taken_over_keeps_what_was_said` |
//! | … without Redis | `faults::cancel::a_stop_without_redis_is_committed_and_told_later` |
//! | the model: 429, 500s, cut, no finish, stall, over the cap | `retries` |
//! | … garbage of every kind | `model::garbage_is_retried_and_never_passed_on` |
//! | … a chunk of 10 MB | `model::an_event_of_ten_megabytes_fails_with_its_code` |
//! | … 3 MB in two events, a NUL | `model::an_answer_in_two_large_events_is_exact`, `model::a_chunk_with_a_nul_is_streamed_and_kept` |
//! | … 5,000 tokens a second | `model::five_thousand_tokens_a_second_are_exact` |
//! | … an answer of hours | `model::an_answer_that_outlives_every_timeout_is_whole` |

mod accepts;
mod appends;
mod cancel;
mod clocks;
mod complaints;
mod crashes;
mod deploys;
mod model;
mod postgres;
mod queue;
mod readers;
mod redis;
mod scenes;
mod stage;
mod steps;
mod zombies;
