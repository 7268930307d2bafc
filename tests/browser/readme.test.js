// The README's client as it stands there, in Chromium, against a real server and a network that fails.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { countPings, untilPing } from "./chat.js";
import { launch, Server, until } from "./harness.js";
import { Proxy } from "./proxy.js";

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const [, client] = readme.match(/\n## What a front end needs\n+```js\n(.*?)```\n/s);
/** The client's own times, in milliseconds. */
const SILENCE = 45_000;
const LONGEST_WAIT = 30_000;
const HOUR = 3_600_000;

let server;
let browser;
before(async () => {
  server = await Server.start({ RILL_PING_INTERVAL: "200ms" });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Asks for an answer; gives what the README calls `accepted`, and a way to fetch what is stored in the end. */
async function ask(content) {
  const post = (path, body) =>
    server.api(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const conversation = await post("/v1/conversations", {});
  const accepted = await post(`/v1/conversations/${conversation.id}/messages`, { content });
  const stored = async () => (await server.messages(conversation.id)).find(({ id }) => id === accepted.message_id).content;
  return { accepted, stored };
}

/** A page with timers that can be wound on, and a proxy between it and the server. */
async function open(t) {
  const proxy = await Proxy.start(server.url);
  const page = await browser.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  t.after(async () => {
    await page.close();
    proxy.stop();
    assert.deepEqual(faults, [], "errors on the page");
  });
  await page.clock.install();
  await page.goto(`${proxy.url}/healthz`);
  return { page, proxy };
}

/** Runs the README's code on the page, with the two names that it expects there. */
async function follow(page, accepted) {
  await page.evaluate((accepted) => {
    const bubble = document.createElement("p");
    const states = [];
    new MutationObserver(() => {
      const { state } = bubble.dataset;
      if (state !== states.at(-1)) states.push(state);
    }).observe(bubble, { attributes: true, attributeFilter: ["data-state"] });
    // Counted before the client goes on with it: a later task finds the client's timer set.
    let answered = 0;
    const { fetch } = window;
    const counted = (...request) => fetch(...request).finally(() => (window.answered = answered += 1));
    Object.assign(window, { accepted, bubble, states, fetch: counted });
  }, accepted);
  await countPings(page);
  await page.addScriptTag({ content: client });
}

const text = (page) => page.evaluate(() => bubble.textContent);
const states = (page) => page.evaluate(() => states);
const untilState = (page, state) =>
  until(`the client says ${state}`, () => page.evaluate((state) => bubble.dataset.state === state, state), 30_000);
const untilLonger = (page, length) =>
  until(`more than ${length} characters`, async () => (await text(page)).length > length, 30_000);
const untilStreams = (proxy, count) =>
  until(`${count} connections`, () => proxy.streams.length === count, 30_000);

describe("the README's client", { concurrency: 3 }, () => {
  test("reads the exact answer across a cut and a response that a proxy ended cleanly", async (t) => {
    const { page, proxy } = await open(t);
    const { accepted, stored } = await ask("Cut me. [[tokens=400]] [[rate=50]]");
    await follow(page, accepted);
    await untilLonger(page, 100);
    await proxy.cut();
    await untilStreams(proxy, 2);
    await untilLonger(page, (await text(page)).length);
    await proxy.endCleanly();
    await untilStreams(proxy, 3);
    await untilState(page, "done");
    assert.equal(await text(page), await stored());
    assert.deepEqual(await states(page), ["queued", "running", "reconnecting", "running", "reconnecting", "running", "done"]);
    assert.equal(proxy.requests.some((path) => path.endsWith(accepted.task_id)), false, "asked for a task that is there");
  });

  test("leaves a connection that is held without a word, and comes back at its cursor", async (t) => {
    const { page, proxy } = await open(t);
    const { accepted, stored } = await ask("Hold me. [[tokens=400]] [[rate=50]]");
    await follow(page, accepted);
    await untilLonger(page, 100);
    proxy.hold();
    await page.clock.fastForward(SILENCE * 2 / 3);
    assert.deepEqual(await states(page), ["queued", "running"], "two pings may be late");
    await page.clock.fastForward(SILENCE / 3);
    await untilState(page, "reconnecting");
    // The second connection is accepted and held as well: it doesn't even bring a status.
    await untilStreams(proxy, 2);
    proxy.release();
    await page.clock.fastForward(SILENCE);
    await untilStreams(proxy, 3);
    assert.match(proxy.streams.at(-1), /\?last_event_id=1-\d+$/);
    await untilState(page, "done");
    assert.equal(await text(page), await stored());
    assert.deepEqual(await states(page), ["queued", "running", "reconnecting", "running", "done"]);
  });

  test("keeps the connection of an answer that is silent while pings come", async (t) => {
    const { page, proxy } = await open(t);
    const { accepted, stored } = await ask("Think first. [[ttft=3s]] [[tokens=5]] [[rate=50]]");
    await follow(page, accepted);
    await untilState(page, "running");
    for (let i = 0; i < 3; i += 1) {
      await untilPing(page);
      await page.clock.fastForward(SILENCE * 2 / 3);
    }
    await untilState(page, "done");
    assert.equal(await text(page), await stored());
    assert.deepEqual(await states(page), ["queued", "running", "done"]);
    assert.equal(proxy.streams.length, 1);
  });

  test("asks for a task that is gone once, says so, and makes no further requests", async (t) => {
    const { page, proxy } = await open(t);
    const task = `/v1/tasks/${randomUUID()}`;
    await follow(page, { stream_url: `${task}/stream` });
    await untilState(page, "gone");
    for (let i = 0; i < 3; i += 1) await page.clock.fastForward(HOUR);
    await page.evaluate(() => fetch("/healthz?the-end"));
    assert.deepEqual(proxy.requests.filter((path) => path !== "/favicon.ico"), ["/healthz", `${task}/stream`, task, "/healthz?the-end"]);
    assert.deepEqual(await states(page), ["reconnecting", "gone"]);
  });

  test("comes back to a stream that is refused, after waits that double up to a limit", async (t) => {
    const { page, proxy } = await open(t);
    const { accepted, stored } = await ask("A server in trouble. [[tokens=5]] [[rate=50]]");
    let refused = 0;
    const refuse = (route) => {
      refused += 1;
      return route.fulfill({ status: 503 });
    };
    const task = `**/v1/tasks/${accepted.task_id}`;
    for (const path of [task, `${task}/stream`]) await page.route(path, refuse);
    await follow(page, accepted);
    for (let tries = 1; tries <= 8; tries += 1) {
      await until(`refused ${tries} times`, () => page.evaluate((tries) => window.answered === tries, tries));
      if (tries < 8) await page.clock.fastForward(LONGEST_WAIT);
    }
    await page.clock.fastForward(LONGEST_WAIT / 3);
    await page.evaluate(() => fetch("/healthz"));
    assert.equal(refused, 16, "the eighth wait is half the limit at least");
    await page.unroute(`${task}/stream`);
    await page.clock.fastForward(LONGEST_WAIT);
    await untilState(page, "done");
    assert.equal(proxy.streams.length, 1, "the others were refused on their way");
    assert.equal(await text(page), await stored());
    assert.deepEqual(await states(page), ["reconnecting", "queued", "running", "done"]);
  });
});
