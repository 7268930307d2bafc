// The open conversation: its messages, and the streams that are followed for them.

import * as api from "./api.js";
import { Follower, hasEnded } from "./follow.js";
import { summary } from "./line.js";
import { tab } from "./memory.js";
import { MessageView, plainText } from "./message.js";

const SEEN = "rill.seen";

export class Chat {
  /** The conversation's ID; null while a new one is being written. */
  id = null;
  #list;
  #page;
  #views = new Map();
  /** message ID -> Follower, for answers that are being written. */
  #followers = new Map();
  /** message ID -> Follower, ended, for answers not yet compared with the API's copy. */
  #ended = new Map();
  /** Messages on their way: views that no refresh may remove. */
  #unsent = new Set();
  #seen = tab.read(SEEN) ?? {};
  #refreshing = null;
  #again = false;

  /** `page` is told: changed(follower) · ended(follower) · drawn(). */
  constructor(list, page) {
    this.#list = list;
    this.#page = page;
  }

  get running() {
    return this.#followers.size > 0;
  }

  /** The follower whose answer came last. */
  get newest() {
    return [...this.#followers.values()].at(-1) ?? null;
  }

  get empty() {
    return this.#list.childElementCount === 0;
  }

  /** Leaves the open conversation for another one, or a new one (null). */
  open(id) {
    for (const follower of this.#followers.values()) follower.close();
    this.#followers.clear();
    this.#ended.clear();
    this.#views.clear();
    this.#unsent.clear();
    this.#list.replaceChildren();
    this.#refreshing = null;
    this.#again = false;
    this.id = id;
  }

  /** A new conversation has got its ID. */
  named(id) {
    this.id = id;
  }

  /** Fetches the messages; calls made meanwhile share one more fetch. */
  refresh() {
    if (this.#refreshing) {
      this.#again = true;
      return this.#refreshing;
    }
    const id = this.id;
    const run = (async () => {
      do {
        this.#again = false;
        const messages = await api.messages(id);
        if (this.id !== id || this.#refreshing !== run) return;
        this.#reconcile(messages);
      } while (this.#again);
    })().finally(() => {
      if (this.#refreshing === run) this.#refreshing = null;
    });
    this.#refreshing = run;
    return run;
  }

  unsent(view) {
    this.#unsent.add(view);
    this.#list.append(view.element);
  }

  unsentGone(view) {
    this.#unsent.delete(view);
    view.element.remove();
  }

  /** The API has taken a message: `view` is the user's, the answer is followed at once. */
  accepted(reply, view) {
    view.replyId = reply.message_id;
    if (!this.#views.has(reply.message_id)) {
      const answer = new MessageView("assistant");
      this.#views.set(reply.message_id, answer);
      view.element.after(answer.element);
    }
    this.#follow(reply.message_id, reply.task_id);
  }

  async stop() {
    await Promise.all([...this.#followers.values()].map((follower) => api.cancel(follower.task)));
  }

  eachFollower(act) {
    for (const follower of this.#followers.values()) act(follower);
  }

  /** Remembers across a reload where each answer was. */
  bookmark() {
    const seen = {};
    this.eachFollower((follower) => (seen[follower.task] = follower.bookmark));
    tab.write(SEEN, seen);
  }

  #reconcile(messages) {
    this.#adoptSent(messages);
    let next = this.#list.firstChild;
    const kept = new Set([...this.#unsent].map((view) => view.element));
    for (const message of messages) {
      let view = this.#views.get(message.id);
      if (!view) this.#views.set(message.id, (view = new MessageView(message.role)));
      kept.add(view.element);
      if (view.element === next) next = next.nextSibling;
      else this.#list.insertBefore(view.element, next);
      this.#bring(view, message);
    }
    for (const id of this.#followers.keys()) kept.add(this.#views.get(id).element);
    for (const [id, view] of this.#views) {
      if (!kept.has(view.element)) this.#views.delete(id);
    }
    for (const element of [...this.#list.children]) if (!kept.has(element)) element.remove();
    this.#page.drawn();
  }

  /** A message that this page has sent is on the page already: its view gets the ID that it now has. */
  #adoptSent(messages) {
    for (const view of this.#unsent) {
      const at = messages.findIndex((message) => message.id === view.replyId);
      if (at < 0) continue;
      const id = messages[at].parent_id ?? messages[at - 1]?.id;
      this.#unsent.delete(view);
      if (id && !this.#views.has(id)) this.#views.set(id, view);
      else view.element.remove();
    }
  }

  #bring(view, message) {
    const { task } = message;
    if (message.role === "assistant" && task && !hasEnded(task)) {
      if (!this.#ended.has(message.id)) this.#follow(message.id, task.id);
      return;
    }
    // A stream that is still followed tells its end itself.
    if (this.#followers.has(message.id)) return;
    const follower = this.#ended.get(message.id);
    this.#ended.delete(message.id);
    if (!follower) {
      // What is shown with a footer of its own stays as it is: an ended answer doesn't change.
      if (!view.compared) view.store(message);
      return;
    }
    view.store(message);
    view.compared = true;
    const told = follower.answer.end;
    const same = told && plainText(message.content) === follower.answer.text;
    const verdict = !told ? "taken from the stored answer" : same ? "identical to the stored answer" : "the stored answer differs, and is shown";
    const ending = { failed: `Failed: ${told?.message ?? task?.error?.message} (${told?.code ?? task?.error?.code})`, cancelled: "Stopped" };
    const how = ending[task?.status] ?? (message.finish_reason && message.finish_reason !== "stop" ? `Finished: ${message.finish_reason}` : "Done");
    view.footer(`${how} · ${summary(follower, verdict)}`, task?.status === "failed" || (told && !same) ? "bad" : "good");
  }

  #follow(messageId, taskId) {
    if (this.#followers.has(messageId)) return;
    const view = this.#views.get(messageId);
    const seen = this.#seen[taskId] ?? null;
    delete this.#seen[taskId];
    const follower = new Follower(taskId, seen, (changed) => {
      if (changed.answer.last) view.stream(changed.answer, () => this.#page.drawn());
      if (changed.over) {
        view.settle();
        this.#followers.delete(messageId);
        this.#ended.set(messageId, changed);
        this.#page.ended(changed);
      } else this.#page.changed(changed);
    });
    this.#followers.set(messageId, follower);
    this.#page.changed(follower);
  }
}

