// One message on the page.

import { Markdown } from "./markdown.js";
import { plainToolCall } from "./answer.js";

/** Milliseconds between two frames of text: smooth enough to read. */
const SHORTEST_REST = 40;
const WHO = { user: "You", assistant: "Answer", tool: "Tool results" };

export class MessageView {
  element = document.createElement("li");
  #role;
  #body = make("div", "body");
  #markdown = new Markdown(this.#body);
  #raw = null;
  #reasoning = null;
  #reasoned = "";
  #answerBegun = false;
  #tools = null;
  #footer = make("p", "footer");
  #actions = null;
  /** What the page shows: its text, the reset that it came with. */
  #text = "";
  #resets = -1;
  #answer = null;
  #resting = false;
  #stale = false;

  constructor(role, text = null) {
    this.#role = role;
    this.element.className = `message ${role}`;
    const head = make("div", "head");
    head.append(make("h2", "who", WHO[role] ?? role));
    this.element.append(head, this.#body, this.#footer);
    this.#footer.hidden = true;
    if (role === "assistant") {
      this.#actions = make("span", "actions");
      this.#actions.append(this.#rawButton(), ...this.#copyButton());
      head.append(this.#actions);
      this.#actions.hidden = true;
    }
    if (text !== null) this.#show(text, 0);
  }

  /** What the message says, exactly. */
  get text() {
    return this.#text;
  }

  /** Shows a message as the API holds it. */
  store(message) {
    this.#answer = null;
    this.#show(plainText(message.content), this.#resets + 1);
    this.#showReasoning(message.reasoning ?? "");
    this.#showTools((message.tool_calls ?? []).map(plainToolCall), message.tool_results ?? []);
    const { task, finish_reason: reason } = message;
    if (task?.status === "failed") this.footer(`Failed: ${task.error?.message ?? "the model gave no answer"} (${task.error?.code ?? "unknown"})`, "bad");
    else if (task?.status === "cancelled") this.footer("Stopped.", "");
    else if (reason && reason !== "stop") this.footer(`Finished: ${reason}`, "");
    else this.footer("");
  }

  /**
   * Shows an answer as far as it has come. Not at each event: in a frame, and then not before
   * three times what that frame took, so that the longest answer leaves the browser time for all else.
   */
  stream(answer, after) {
    this.#answer = answer;
    this.element.classList.add("streaming");
    this.#stale = true;
    if (this.#resting) return;
    this.#resting = true;
    requestAnimationFrame(() => {
      const began = performance.now();
      this.#stale = false;
      if (this.#answer) {
        this.#draw();
        after();
      }
      // A timer that is due at once runs after the frame is laid out and painted.
      setTimeout(() => setTimeout(() => {
        this.#resting = false;
        if (this.#stale && this.#answer) this.stream(this.#answer, after);
      }, Math.max(SHORTEST_REST, 3 * (performance.now() - began))));
    });
  }

  /** The answer has ended: shows the last of it at once, whether or not the tab is drawn. */
  settle() {
    if (this.#answer) this.#draw();
    this.#answer = null;
    this.element.classList.remove("streaming");
  }

  footer(text, kind = "") {
    this.#footer.hidden = !text;
    this.#footer.className = `footer ${kind}`;
    this.#footer.textContent = text;
  }

  /** Text and buttons, for a message that was not sent. */
  footerWith(text, kind, ...buttons) {
    this.footer(text, kind);
    this.#footer.append(" ", ...buttons);
  }

  #draw() {
    const answer = this.#answer;
    this.#show(answer.text, answer.resets);
    this.#showReasoning(answer.reasoning);
    // Open while there is nothing else to read.
    if (this.#reasoning && !this.#answerBegun) this.#reasoning.open = !answer.text;
    this.#answerBegun = answer.text !== "";
    this.#showTools(answer.toolCalls, []);
  }

  #show(text, resets) {
    const appended = resets === this.#resets ? text.slice(this.#text.length) : null;
    if (appended === "") return;
    const same = appended === null && text === this.#text && this.#resets >= 0;
    this.#text = text;
    this.#resets = resets;
    if (same) return;
    if (this.#actions) this.#actions.hidden = !text;
    if (this.#raw) this.#showRaw(appended);
    else if (this.#role !== "assistant") this.#body.textContent = text;
    else if (appended === null) this.#markdown.replace(text);
    else this.#markdown.append(appended);
  }

  #showRaw(appended) {
    if (appended === null) this.#raw.textContent = this.#text;
    else this.#raw.append(appended);
  }

  #showReasoning(text) {
    if (text === this.#reasoned) return;
    if (!this.#reasoning) {
      this.#reasoning = make("details", "reasoning");
      this.#reasoning.append(make("summary", "", "Reasoning"), make("div", "text"));
      this.#body.before(this.#reasoning);
    }
    const shown = this.#reasoning.lastChild;
    const appended = text.startsWith(this.#reasoned) ? text.slice(this.#reasoned.length) : null;
    if (appended === null) shown.textContent = text;
    else shown.append(appended);
    this.#reasoned = text;
    this.#reasoning.hidden = !text;
  }

  #showTools(calls, results) {
    if (!calls.length && !results.length && !this.#tools) return;
    if (!this.#tools) {
      this.#tools = make("ul", "tools");
      this.#body.after(this.#tools);
    }
    this.#tools.replaceChildren(
      ...calls.map((call) => toolItem(`Calls ${call.name || "a tool"}`, call.arguments)),
      ...results.map((result) => toolItem(`Result of ${result.tool_call_id}`, plainText(result.content))),
    );
  }

  #rawButton() {
    const button = quiet("Show source");
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const raw = !this.#raw;
      button.setAttribute("aria-pressed", String(raw));
      this.#body.replaceChildren();
      if (raw) {
        this.#raw = this.#body.appendChild(make("div", "raw"));
        this.#showRaw(null);
      } else {
        this.#raw = null;
        this.#markdown.replace(this.#text);
      }
    });
    return button;
  }

  #copyButton() {
    if (!navigator.clipboard) return []; // not a secure context
    const button = quiet("Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(this.#text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed to copy";
      }
      setTimeout(() => (button.textContent = "Copy"), 2_000);
    });
    return [button];
  }
}

/** Content is a text or a list of parts. */
export function plainText(content) {
  if (!Array.isArray(content)) return content ?? "";
  return content.map((part) => part.text ?? `[image: ${part.image_url?.url ?? part.type}]`).join("\n");
}

function toolItem(title, text) {
  const item = make("li");
  const pre = make("pre", "", text);
  pre.tabIndex = 0;
  item.append(make("span", "", title), pre);
  return item;
}

export function quiet(text) {
  const button = make("button", "quiet", text);
  button.type = "button";
  return button;
}

export function make(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
