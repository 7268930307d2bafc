// The page: routes `#/` (a new conversation) and `#/c/<id>`, the message box, and what happens
// when the network, the tab or another tab changes something.

import * as api from "./api.js";
import "./focus.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { askDelete, askTitle } from "./dialogs.js";
import { Line } from "./line.js";
import { Outbox } from "./outbox.js";
import { Sidebar } from "./sidebar.js";
import { suggest } from "./suggestions.js";

/** A hidden tab gives its connection back after this long. */
const HIDDEN = 20_000;
const $ = (selector) => document.querySelector(selector);

const scroll = $("#scroll");
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("rill") : null;
const sidebar = new Sidebar();
const line = new Line($("#line"), $("#cut"));
let pinned = true;
let title = "";
let reload = null;
let failures = 0;
let announced = "";

const chat = new Chat($("#messages"), {
  drawn,
  changed(follower) {
    line.show(chat.newest);
    announceState(follower);
    buttons();
  },
  ended(follower) {
    const end = follower.answer.end;
    announced = "";
    announce(!end ? "The answer has ended." : { done: "The answer is complete.", failed: "The answer failed.", cancelled: "Stopped." }[end.name]);
    line.show(chat.newest);
    buttons();
    load();
  },
});

const outbox = new Outbox({
  show(view) {
    chat.unsent(view);
    welcome();
    toBottom();
  },
  hide(view) {
    chat.unsentGone(view);
    welcome();
  },
  created(conversation, view) {
    if (view && chat.id === null) {
      chat.named(conversation.id);
      history.replaceState(null, "", `#/c/${encodeURIComponent(conversation.id)}`);
      entitle(conversation.title);
      sidebar.select(conversation.id);
    }
    tell({ conversations: true });
    sidebar.refresh().catch(() => {});
  },
  accepted(conversation, reply, view) {
    if (view && chat.id === conversation) {
      chat.accepted(reply, view);
      toBottom();
      load();
    }
    tell({ conversation, conversations: true });
  },
  refused(error, text, conversation) {
    if (chat.id === conversation) composer.giveBack(text);
    if (error) notice(error);
  },
  unconfirmed(error) {
    announce(`The message is not confirmed. ${error.message}`);
  },
  changed: () => buttons(),
});

const composer = new Composer({
  send(text, model) {
    notice(null);
    outbox.put(chat.id, text, model);
  },
  async stop() {
    try {
      await chat.stop();
      return true;
    } catch (error) {
      notice(error);
      return false;
    }
  },
  models: (chosen) => suggest($("#suggestions"), chosen, (prompt) => composer.giveBack(prompt)),
});

function buttons() {
  composer.set({ running: chat.running, busy: outbox.busy(chat.id) });
}

// --- where we are

function route() {
  const match = location.hash.match(/^#\/c\/([^/]+)$/);
  const id = match ? decodeURIComponent(match[1]) : null;
  notice(null);
  chat.open(id);
  line.show(null);
  entitle(null);
  sidebar.select(id);
  outbox.open(id);
  pinned = true;
  buttons();
  welcome();
  failures = 0;
  load();
}

/** Fetches what the page shows; again after a while when that fails. */
async function load() {
  clearTimeout(reload);
  const id = chat.id;
  try {
    await Promise.all([loadConversation(id), sidebar.refresh(), composer.loadModels()]);
    if (failures > 0) notice(null);
    failures = 0;
  } catch (error) {
    if (chat.id !== id) return;
    if (error.status === 404) {
      chat.open(id);
      entitle(null);
    }
    if (error.again) {
      failures += 1;
      reload = setTimeout(load, Math.min(15_000, 1_000 * 2 ** Math.min(failures, 5)) * (0.5 + Math.random() / 2));
    }
    notice(error, error.again ? "Trying again." : "");
  }
  if (chat.id === id) {
    welcome();
    buttons();
  }
}

async function loadConversation(id) {
  if (id === null) return;
  const [conversation] = await Promise.all([api.conversation(id), chat.refresh()]);
  if (chat.id === id) entitle(conversation.title, true);
}

function entitle(text, known = text !== null) {
  title = text ?? "";
  const shown = text || (chat.id === null ? "New conversation" : "Untitled");
  $("#title").textContent = shown;
  document.title = `${shown} · rill`;
  for (const button of [$("#rename"), $("#delete")]) button.hidden = chat.id === null || !known;
}

// --- what is shown

function welcome() {
  $("#welcome").hidden = !(chat.empty && chat.id === null);
}

function drawn() {
  welcome();
  if (pinned) toBottom();
}

function toBottom() {
  pinned = true;
  scroll.scrollTop = scroll.scrollHeight;
  $("#latest").hidden = true;
}

scroll.addEventListener("scroll", () => {
  pinned = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 48;
  $("#latest").hidden = pinned;
}, { passive: true });
$("#latest").addEventListener("click", () => {
  toBottom();
  composer.focus();
});
new ResizeObserver(() => pinned && toBottom()).observe(scroll);

function notice(error, more = "") {
  const text = error ? [String(error), more].filter(Boolean).join(" ") : "";
  const shown = $("#notice p");
  $("#notice").hidden = !text;
  if (shown.textContent !== text) shown.textContent = text;
  shown.title = error?.requestId ? `request ${error.requestId}` : "";
}
$("#notice button").addEventListener("click", () => {
  notice(null);
  composer.focus();
});

/** For those who don't see the line: changes only, never the text as it comes. */
function announce(text) {
  const shown = $("#announce");
  // The same words again are a change only if they differ.
  shown.textContent = text && text === shown.textContent ? `${text}\u00a0` : text;
}
function announceState({ state, answer }) {
  const live = answer.retrying ? "This attempt failed, another follows." : answer.last && "The answer is coming in.";
  const now = state === "live" ? live : { reconnecting: "Connection lost, reconnecting.", offline: "Offline." }[state];
  if (now && now !== announced) announce((announced = now));
}

// --- rename and delete

$("#rename").addEventListener("click", async () => {
  const id = chat.id;
  const wanted = await askTitle(title);
  if (wanted === null) return;
  try {
    const { title: renamed } = await api.renameConversation(id, wanted);
    if (chat.id === id) entitle(renamed, true);
    announce(`Renamed to ${renamed || "Untitled"}.`);
    tell({ conversation: id, conversations: true });
    await sidebar.refresh();
  } catch (error) {
    notice(error);
  }
});

$("#delete").addEventListener("click", async () => {
  const id = chat.id;
  if (!(await askDelete())) return;
  try {
    await api.deleteConversation(id);
    tell({ conversation: id, conversations: true });
    announce("The conversation was deleted.");
    if (chat.id !== id) return;
    location.hash = "#/";
    composer.focus();
  } catch (error) {
    notice(error);
  }
});

// --- other tabs, the network, and being looked at

function tell(what) {
  tabs?.postMessage(what);
}
tabs?.addEventListener("message", ({ data }) => {
  if (data.conversation === chat.id || data.conversations) load();
});

let hide = null;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hide);
  if (document.visibilityState === "hidden") hide = setTimeout(() => chat.eachFollower((f) => f.pause()), HIDDEN);
  else lookedAt();
});
addEventListener("focus", lookedAt);
addEventListener("online", lookedAt);
addEventListener("pageshow", (event) => event.persisted && route());
addEventListener("pagehide", () => chat.bookmark());
addEventListener("hashchange", route);

let looked = 0;
function lookedAt() {
  chat.eachFollower((follower) => follower.hurry());
  if (Date.now() - looked < 1_000) return;
  looked = Date.now();
  load();
}

route();
composer.focus();
