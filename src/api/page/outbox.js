// Messages on their way to the API.
//
// A message is kept, in this tab's session storage, with the idempotency key that it was given
// when it was written, until the API has said that it has it, or that it never will. So it may
// be sent again after a lost reply, a 503 or a reload, and is still one message.

import * as api from "./api.js";
import { tab } from "./memory.js";
import { MessageView, quiet } from "./message.js";

const STORE = "rill.outbox";
const NEW = "";
const LONGEST_TITLE = 60;

export class Outbox {
  #items = new Map(Object.entries(tab.read(STORE) ?? {}));
  #views = new Map();
  #sending = new Set();
  #page;

  /**
   * `page` is told: show(view) · hide(view) · created(conversation, view) ·
   * accepted(conversation, reply, view) · refused(error, text, conversation) ·
   * unconfirmed(error) · changed(). A view is absent when its conversation isn't open.
   */
  constructor(page) {
    this.#page = page;
  }

  /** Is a message on its way, or waiting to be tried again, in this conversation? */
  busy(conversation) {
    return this.#items.has(conversation ?? NEW);
  }

  /** Puts what is under way in this conversation on the page, and takes it up again after a reload. */
  open(conversation) {
    this.#views.clear();
    const item = this.#items.get(conversation ?? NEW);
    if (!item) return;
    this.#view(item);
    if (!this.#sending.has(item.key)) this.#send(item);
  }

  put(conversation, content, model) {
    const body = model ? { content, model } : { content };
    const item = { key: api.uuid(), conversation: conversation ?? NEW, body };
    this.#items.set(item.conversation, item);
    this.#save();
    this.#view(item);
    return this.#send(item);
  }

  #view(item) {
    const view = new MessageView("user", item.body.content);
    view.footer("Sending");
    this.#views.set(item.key, view);
    this.#page.show(view);
  }

  async #send(item) {
    this.#sending.add(item.key);
    this.#views.get(item.key)?.footer("Sending");
    this.#page.changed();
    try {
      if (item.conversation === NEW) await this.#create(item);
      const reply = await api.send(item.conversation, item.key, item.body);
      const view = this.#forget(item);
      view?.footer("");
      this.#page.accepted(item.conversation, reply, view);
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      this.#failed(item, error);
    } finally {
      this.#sending.delete(item.key);
      this.#page.changed();
    }
  }

  /** Creating a conversation has no key: a lost reply leaves an empty one behind, but never a second message. */
  async #create(item) {
    const title = item.body.content.replace(/\[\[[^\]]*\]\]/g, " ").replace(/\s+/g, " ").trim();
    const short = title.length > LONGEST_TITLE ? `${title.slice(0, LONGEST_TITLE - 1)}…` : title;
    const conversation = await api.createConversation(short.toWellFormed?.() ?? short);
    this.#items.delete(NEW);
    item.conversation = conversation.id;
    this.#items.set(item.conversation, item);
    this.#save();
    this.#page.created(conversation, this.#views.get(item.key));
  }

  #failed(item, error) {
    const view = this.#views.get(item.key);
    if (!error.again) {
      this.#forget(item);
      if (view) this.#page.hide(view);
      this.#page.refused(error, item.body.content, item.conversation || null);
      return;
    }
    if (!view) return;
    const retry = quiet("Try again");
    retry.addEventListener("click", () => this.#sending.has(item.key) || this.#send(item));
    const edit = quiet("Edit");
    edit.addEventListener("click", () => {
      this.#forget(item);
      this.#page.hide(view);
      this.#page.refused(null, item.body.content, item.conversation || null);
    });
    view.footerWith(`Not confirmed: ${error}`, "bad", retry, edit);
    this.#page.unconfirmed(error);
  }

  #forget(item) {
    const view = this.#views.get(item.key);
    this.#views.delete(item.key);
    this.#items.delete(item.conversation);
    this.#save();
    return view;
  }

  #save() {
    tab.write(STORE, Object.fromEntries(this.#items));
  }
}
