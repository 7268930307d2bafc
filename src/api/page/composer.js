// The message box: text, model, send and stop.

import * as api from "./api.js";
import { browser, tab } from "./memory.js";
import { make } from "./message.js";

const DRAFT = "rill.draft";
const MODEL = "rill.model";
const $ = (selector) => document.querySelector(selector);

export class Composer {
  #text = $("#text");
  #model = $("#model");
  #send = $("#send");
  #stop = $("#stop");
  #page;
  #running = false;
  #busy = false;
  #models = null;

  /** `page` is told: send(text, model) · models(chosen) · stop(), true when the API has taken it. */
  constructor(page) {
    this.#page = page;
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("keydown", (event) => {
      // Enter also confirms what an input method proposes.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("input", () => this.#edited());
    this.#stop.addEventListener("click", async () => {
      this.#stop.disabled = true;
      this.#stop.textContent = "Stopping";
      this.focus();
      if (!(await this.#page.stop())) this.#stop.textContent = "Stop";
      this.#stop.disabled = false;
    });
    this.#model.addEventListener("change", () => {
      browser.write(MODEL, this.#model.value);
      this.#page.models(this.#models.find((model) => model.id === this.#model.value));
    });
    this.#text.value = tab.read(DRAFT) ?? "";
    this.#edited();
  }

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  /** Puts a text into the box; what was being written there is kept below it. */
  giveBack(text) {
    const written = this.#text.value.trim();
    this.#text.value = written && written !== text ? `${text}\n${written}` : text;
    this.#edited();
    this.focus();
  }

  /** Called for each event of a stream: does nothing unless something has changed. */
  set({ running, busy }) {
    if (running === this.#running && busy === this.#busy) return;
    this.#running = running;
    this.#busy = busy;
    if (this.#stop.hidden === running) this.#stop.textContent = "Stop";
    this.#stop.hidden = !running;
    this.#send.hidden = running;
    this.#allow();
  }

  /** Once; a failure is the caller's to repeat. */
  async loadModels() {
    if (this.#models) return;
    const models = await api.models();
    this.#models = models;
    const saved = browser.read(MODEL);
    const chosen = models.find((m) => m.id === saved) ?? models.find((m) => m.default) ?? models[0];
    this.#model.replaceChildren(
      ...models.map((model) => {
        const option = make("option", "", model.id);
        option.value = model.id;
        option.selected = model === chosen;
        return option;
      }),
    );
    this.#model.disabled = models.length === 0;
    this.#page.models(chosen);
  }

  #submit() {
    const text = this.#text.value;
    if (!text.trim() || this.#running || this.#busy) return;
    this.#text.value = "";
    this.#edited();
    this.focus();
    this.#page.send(text, this.#model.value || null);
  }

  #edited() {
    tab.write(DRAFT, this.#text.value);
    this.#allow();
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight + 2}px`;
  }

  #allow() {
    this.#send.disabled = this.#busy || !this.#text.value.trim();
  }
}
