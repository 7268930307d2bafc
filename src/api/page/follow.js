// Follows one task's stream to its end, whatever happens to the connection.
//
// EventSource reconnects by itself, with Last-Event-ID, when a connection breaks. It gives up
// for good on any answer that is not a 200 stream: a 503 while the server restarts, or the
// 204 that says there is nothing after the cursor. It does not tell which; so we ask for the
// task, and open a new EventSource at the cursor unless the task has ended. It does not notice
// a connection that died without either end being told; pings that stop coming show that.

import * as api from "./api.js";
import { Answer, compareIds } from "./answer.js";

const EVENTS = ["started", "delta", "reasoning", "tool_call", "retrying", "snapshot", "done", "failed", "cancelled"];
const LONGEST_WAIT = 15_000;
/** Three of the server's pings; one may be late. */
const SILENCE = 45_000;
const MOST_STRETCHES = 40;

export const hasEnded = (task) => ["done", "failed", "cancelled"].includes(task.status);

/**
 * `state`: connecting, live, reconnecting, offline, paused, ended (terminal event applied, or
 * the task is known to have ended) or gone (the task doesn't exist any more).
 */
export class Follower {
  answer = new Answer();
  state = "connecting";
  /** Reconnections tried since the last event. */
  tries = 0;
  connections = 0;
  /** One for each stretch without a cut: {events, replay}. */
  stretches = [];
  /** What the last reconnection or reload came to; text. */
  note = "";

  #source = null;
  #timer = null;
  #watch = null;
  /** When the connection last showed that it lives, or was asked for. */
  #heard = 0;
  #resumedFrom = null;
  #readToTheEnd = false;
  #seen;
  #changed;

  /**
   * `seen` is {id, length} of what this tab had before it was reloaded, or null.
   * `changed(follower)` is called after each event and each change of state.
   */
  constructor(task, seen, changed) {
    this.task = task;
    this.#seen = seen;
    this.#changed = changed;
    this.#watch = setInterval(() => this.#leaveWhenSilent(), 5_000);
    this.#open();
  }

  /** What to remember across a reload. */
  get bookmark() {
    return this.answer.last && { id: this.answer.last, length: this.#length() };
  }

  get over() {
    return this.state === "ended" || this.state === "gone";
  }

  close() {
    clearInterval(this.#watch);
    this.#drop();
  }

  /** Breaks the connection, as a network would. */
  cut() {
    if (this.over) return;
    this.#drop();
    this.#lost(1_500);
  }

  /** Gives the connection back while nobody looks: browsers allow six to a host. */
  pause() {
    if (this.over) return;
    this.#drop();
    this.#is("paused");
  }

  /** Now rather than after the back-off: the network is back, or somebody looks again. */
  hurry() {
    if (this.state === "reconnecting" || this.state === "offline" || this.state === "paused") this.#open();
  }

  #open() {
    this.#drop();
    const { last } = this.answer;
    const url = api.streamUrl(this.task);
    const source = new EventSource(last ? `${url}?last_event_id=${last}` : url);
    this.#source = source;
    this.#heard = Date.now();
    source.onopen = () => {
      this.connections += 1;
      this.#heard = Date.now();
      this.#resumedFrom = this.answer.last;
      this.#stretch(this.#seen !== null && this.connections === 1);
      this.#is("live");
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {
        this.#drop();
        this.#lost(this.#backoff());
      } else {
        this.tries += 1;
        this.#is(navigator.onLine ? "reconnecting" : "offline");
      }
    };
    source.addEventListener("ping", () => (this.#heard = Date.now()));
    for (const name of EVENTS) source.addEventListener(name, (event) => this.#receive(name, event));
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #receive(name, event) {
    this.#heard = Date.now();
    const { resets, retrying } = this.answer;
    if (!this.answer.apply(name, event.lastEventId, JSON.parse(event.data))) return;
    this.tries = 0;
    this.stretches.at(-1).events += 1;
    if (this.#seen) this.#compareWithSeen(name);
    else if (name === "started" && this.answer.attempt > 1) this.#tellBegunAgain(retrying);
    else if (this.#resumedFrom) this.#tellResumed(this.answer.resets > resets);
    if (this.answer.end) this.#finish("ended");
    else this.#changed(this);
  }

  #tellBegunAgain(failed) {
    this.#resumedFrom = null;
    const why = failed ? `attempt ${failed.attempt} failed (${failed.code}), ` : "";
    this.note = `${why}attempt ${this.answer.attempt} begins the answer again`;
  }

  #tellResumed(reset) {
    const from = this.#resumedFrom;
    this.#resumedFrom = null;
    if (reset) this.note = `resumed from a snapshot at event ${this.answer.last}, nothing lost`;
    else this.note = `resumed after event ${from}, nothing lost`;
  }

  /** After a reload the stream is read from its start; at the event where the tab was, it must hold what the tab held. */
  #compareWithSeen(name) {
    const order = compareIds(this.answer.last, this.#seen.id);
    if (order < 0) return;
    if (order === 0 && this.#length() === this.#seen.length) {
      this.note = `reloaded at event ${this.#seen.id}, resumed there, nothing lost`;
    } else if (order === 0) {
      this.note = `reloaded at event ${this.#seen.id}, but the text before it differs`;
    } else if (name === "started") {
      this.note = `reloaded at event ${this.#seen.id}, attempt ${this.answer.attempt} begins the answer again`;
    } else {
      this.note = `reloaded at event ${this.#seen.id}, resumed from a snapshot at event ${this.answer.last}, nothing lost`;
    }
    this.#seen = null;
    this.#resumedFrom = null;
    this.#stretch(false);
  }

  #stretch(replay) {
    this.stretches.push({ events: 0, replay });
    if (this.stretches.length > MOST_STRETCHES) this.stretches.shift();
  }

  #length() {
    return this.answer.text.length + this.answer.reasoning.length;
  }

  #lost(wait) {
    this.tries += 1;
    this.#is(navigator.onLine ? "reconnecting" : "offline");
    this.#timer = setTimeout(() => this.#reopen(), wait);
  }

  async #reopen() {
    try {
      const task = await api.task(this.task);
      if (this.#source || this.over || this.state === "paused") return;
      // What is missing up to the end is there to be read; refused again, there was nothing.
      if (hasEnded(task) && this.#readToTheEnd) this.#finish("ended");
      else {
        this.#readToTheEnd = hasEnded(task);
        this.#open();
      }
    } catch (error) {
      if (this.#source || this.over || this.state === "paused") return;
      if (error.status === 404) this.#finish("gone");
      else this.#lost(this.#backoff());
    }
  }

  /** Doubling, and anywhere in the upper half: many pages must not come back at once. */
  #backoff() {
    const ceiling = Math.min(LONGEST_WAIT, 500 * 2 ** Math.min(this.tries, 10));
    return ceiling * (0.5 + Math.random() / 2);
  }

  /** By the wall clock: timers stand still while a machine sleeps, and its connections die meanwhile. */
  #leaveWhenSilent() {
    if (!this.#source || Date.now() - this.#heard < SILENCE) return;
    this.#drop();
    this.#lost(this.#backoff());
  }

  #finish(state) {
    this.close();
    this.#is(state);
  }

  #is(state) {
    this.state = state;
    this.#changed(this);
  }
}
