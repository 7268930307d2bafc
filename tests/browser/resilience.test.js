// What the page does when the network or the server goes away under it.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import * as chat from "./chat.js";
import { launch, Server, SIZES, until } from "./harness.js";
import { Proxy } from "./proxy.js";

let server;
let browser;
before(async () => {
  server = await Server.start({ RILL_PING_INTERVAL: "500ms" });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const STREAM = /\/v1\/tasks\/[^/]+\/stream/;
const TASK = /\/v1\/tasks\/[^/]+$/;
const POST = /\/v1\/conversations\/[^/]+\/messages$/;
const away = { status: 503, contentType: "application/problem+json", headers: { "retry-after": "1" } };
const missing = { status: 404, contentType: "application/problem+json", body: JSON.stringify({ type: "about:blank", title: "Not found", status: 404, code: "task_not_found" }) };
/** Milliseconds without a ping after which the page notices for certain: it looks every 5 s. */
const SILENCE = 50_000;
const HOUR = 3_600_000;
const problem = JSON.stringify({ type: "about:blank", title: "Unavailable", status: 503, code: "unavailable", detail: "Come back soon." });

// Most of their time the tests wait for a model: three at once.
describe("the chat page in trouble", { concurrency: 3 }, () => {
  for (const size of SIZES) {
    const at = (name) => `${name} at ${size.name} px`;

    test(at("a connection that is cut resumes after the last event"), async () => {
      const page = await chat.open(browser, server, size);
      await chat.send(page, "Cut me. [[tokens=400]] [[rate=40]]");
      for (let i = 1; i <= 2; i += 1) {
        await chat.untilLonger(page, i * 100);
        await page.click("#cut");
        const lost = await chat.untilLine(page, /\[reconnecting\] reconnecting \(attempt \d+\) · have everything up to event 1-\d+/);
        if (i === 1) await chat.assertSound(page, `${size.name}-reconnecting`);
        const [, last] = lost.match(/event (1-\d+)/);
        await chat.untilLine(page, new RegExp(`\\[live\\].*resumed after event ${last}, nothing lost`));
      }
      assert.match(await chat.untilEnded(page), /over 3 connections · .*identical to the stored answer$/);
      await chat.assertSameAsStored(page, server);
      await chat.close(page);
    });

    test(at("a stream that answers 503, which ends an EventSource, is opened again"), async () => {
      const page = await chat.open(browser, server, size);
      await chat.send(page, "A server in trouble. [[tokens=400]] [[rate=40]]");
      await chat.untilLonger(page, 60);
      let refused = 0;
      await page.route(STREAM, (route) => {
        refused += 1;
        return refused <= 2 ? route.fulfill({ ...away, body: problem }) : route.continue();
      });
      await page.click("#cut");
      await chat.untilLine(page, /\[reconnecting\] reconnecting \(attempt [23]\)/);
      await chat.untilLine(page, /\[live\].*resumed after event 1-\d+, nothing lost/);
      assert.equal(refused, 3);
      assert.match(await chat.untilEnded(page), /identical/);
      await chat.assertSameAsStored(page, server);
      await chat.close(page);
    });

    test(at("a device that goes offline says so, and comes back"), async () => {
      const page = await chat.open(browser, server, size);
      await chat.send(page, "Into the tunnel. [[tokens=400]] [[rate=40]]");
      await chat.untilLonger(page, 60);
      await page.context().setOffline(true);
      await page.click("#cut");
      await chat.untilLine(page, /\[offline\] offline · have everything up to event 1-\d+/);
      await page.context().setOffline(false);
      await chat.untilLine(page, /\[live\].*nothing lost/);
      assert.match(await chat.untilEnded(page), /identical/);
      await chat.assertSameAsStored(page, server);
      await chat.close(page);
    });

    test(at("a message whose reply is lost is sent again, and is one message"), async () => {
      const page = await chat.open(browser, server, size);
      const keys = [];
      await page.route(POST, async (route) => {
        if (route.request().method() !== "POST") return route.continue();
        keys.push(route.request().headers()["idempotency-key"]);
        if (keys.length === 1) return route.fulfill({ ...away, body: problem });
        if (keys.length > 2) return route.continue();
        await route.fetch();
        return route.abort("connectionreset");
      });
      await chat.send(page, "Once, please. [[tokens=10]] [[rate=100]]");
      await page.waitForSelector(".message.user .footer.bad");
      assert.match(await page.textContent(".message.user .footer"), /Come back soon. \(unavailable\)/);
      await chat.assertSound(page, `${size.name}-unconfirmed`);
      await page.getByRole("button", { name: "Try again" }).click();
      await until("it was sent twice", () => keys.length === 2);
      await page.waitForSelector(".message.user .footer.bad");
      assert.match(await page.textContent(".message.user .footer"), /\(unreachable\)/);
      // A reload sends it again by itself: with its key that can do no harm.
      await page.reload();
      await page.waitForSelector(".message.assistant:not(.streaming) .body:not(:empty)");
      assert.equal(keys.length, 3);
      assert.equal(new Set(keys).size, 1);
      const messages = await server.messages(await chat.conversationOf(page));
      assert.deepEqual(messages.map((message) => message.role), ["user", "assistant"]);
      await chat.assertSameAsStored(page, server);
      assert.equal(await page.locator(".message").count(), 2);
      await chat.close(page);
    });

    test(at("a server that is killed and started again finishes the answer"), async (t) => {
      const own = await Server.start();
      t.after(() => own.stop());
      const page = await chat.open(browser, own, size);
      await chat.send(page, "Survive this. [[tokens=160]] [[rate=40]]");
      await chat.untilLonger(page, 100);
      await own.kill();
      await chat.untilLine(page, /\[reconnecting\] reconnecting \(attempt \d+\) · have everything up to event 1-\d+/);
      await chat.assertSound(page, `${size.name}-killed`);
      await own.up();
      await chat.untilLine(page, /\[live\].*event 2-\d+/, 30_000);
      await chat.untilLine(page, /attempt 2 begins the answer again/);
      assert.match(await chat.untilEnded(page), /identical to the stored answer$/);
      const stored = await chat.assertSameAsStored(page, own);
      assert.equal(stored.task.attempt, 2);
      assert.equal((await own.messages(await chat.conversationOf(page))).length, 2);
      await chat.close(page);
    });

    test(at("a model that breaks off is tried again, and the page says so"), async () => {
      const page = await chat.open(browser, server, size);
      // The simulator counts the calls of each prompt: this one must be new to it.
      await chat.send(page, `Twice, ${randomUUID()}. [[tokens=80]] [[rate=40]] [[cut=30*1]]`);
      await chat.untilLine(page, /event 2-\d+/);
      assert.match(await chat.untilEnded(page), /^Done · .*attempt 1 failed \([a-z_]+\), attempt 2 begins the answer again · identical/);
      await chat.assertSameAsStored(page, server);
      await chat.close(page);
    });
  }

  test("a connection that is held without a word is left, and resumes after the last event", async (t) => {
    const proxy = await Proxy.start(server.url);
    t.after(() => proxy.stop());
    const page = await chat.open(browser, proxy, SIZES[0]);
    await page.clock.install();
    await chat.send(page, "Hold me. [[tokens=600]] [[rate=40]]");
    await chat.untilLonger(page, 100);
    proxy.hold();
    const held = await chat.lineOf(page);
    assert.match(held, /\[live\]/);
    await page.clock.fastForward(SILENCE);
    const lost = await chat.untilLine(page, /\[reconnecting\] reconnecting \(attempt 1\) · have everything up to event 1-\d+/);
    const [, last] = lost.match(/event (1-\d+)/);
    // The second connection is accepted and held as well: it doesn't even bring a status.
    await until("a second connection", () => proxy.streams.length === 2);
    proxy.release();
    await page.clock.fastForward(SILENCE);
    await chat.untilLine(page, new RegExp(`\\[live\\].*resumed after event ${last}, nothing lost`));
    assert.deepEqual(proxy.streams.slice(1).map((path) => path.split("?")[1]), Array(2).fill(`last_event_id=${last}`));
    assert.match(await chat.untilEnded(page), /over 2 connections · .*identical to the stored answer$/);
    await chat.assertSameAsStored(page, server);
    await chat.close(page);
  });

  test("a response that a proxy ends cleanly is not taken for the end of the answer", async (t) => {
    const proxy = await Proxy.start(server.url);
    t.after(() => proxy.stop());
    const page = await chat.open(browser, proxy, SIZES[0]);
    await chat.send(page, "End me. [[tokens=200]] [[rate=40]]");
    await chat.untilLonger(page, 100);
    await proxy.endCleanly();
    await chat.untilLine(page, /\[reconnecting\]/);
    await chat.untilLine(page, /\[live\].*resumed after event 1-\d+, nothing lost/);
    assert.match(await chat.untilEnded(page), /over 2 connections · .*identical to the stored answer$/);
    await chat.assertSameAsStored(page, server);
    await chat.close(page);
  });

  test("the connection of an answer that is silent is kept while pings come", async () => {
    const page = await chat.open(browser, server, SIZES[0]);
    await page.clock.install();
    await chat.countPings(page);
    await chat.send(page, "Think first. [[ttft=4s]] [[tokens=5]] [[rate=40]]");
    await chat.untilLine(page, /\[live\] live · event 1-/);
    for (let i = 0; i < 3; i += 1) {
      await chat.untilPing(page);
      await page.clock.fastForward(SILENCE * 2 / 3);
    }
    assert.match(await chat.untilEnded(page), /over one connection · identical to the stored answer$/);
    await chat.close(page);
  });

  test("a task that is gone is asked for once, and never again", async () => {
    const page = await chat.open(browser, server, SIZES[0]);
    await page.clock.install();
    await chat.send(page, "Forget me. [[tokens=400]] [[rate=40]]");
    await chat.untilLonger(page, 100);
    const asked = [];
    for (const path of [STREAM, TASK]) {
      await page.route(path, (route) => {
        asked.push(path);
        return route.fulfill(missing);
      });
    }
    await page.click("#cut");
    await until("the answer is not followed any more", () => page.locator(".message.streaming").count().then((count) => count === 0));
    for (let i = 0; i < 3; i += 1) await page.clock.fastForward(HOUR);
    await page.evaluate(() => fetch("/healthz"));
    assert.deepEqual(asked, [TASK]);
    await chat.close(page);
  });
});
