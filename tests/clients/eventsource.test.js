// npm `eventsource` follows a stream over connections that break, and misses nothing.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import net from "node:net";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { randomUUID } from "node:crypto";
import { EventSource } from "eventsource";

const api = process.env.RILL_URL;
const sample = JSON.parse(readFileSync(new URL("sample.json", import.meta.url)));
const EVENTS = ["started", "delta", "reasoning", "tool_call", "retrying", "snapshot", "done", "failed", "cancelled"];

const PING = "event: ping";

/** Breaks a connection after each of `limits`, bytes of answer or the first ping; then lets everything through. */
async function cuttingProxy(limits) {
  const { hostname, port } = new URL(api);
  const seen = { cuts: 0, resumed: [] };
  const server = net.createServer((client) => {
    const upstream = net.connect(Number(port), hostname);
    const limit = limits.shift() ?? Infinity;
    let left = limit === PING ? Infinity : limit;
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    client.once("data", (head) => seen.resumed.push(String(head).match(/last-event-id: *(\S+)/i)?.[1] ?? null));
    client.on("data", (data) => upstream.write(data));
    upstream.on("data", (data) => {
      if (limit === PING && data.includes(PING)) {
        // Without a reset, which could overtake the ping.
        client.end(data);
        upstream.destroy();
        return;
      }
      // The cut may fall inside a character, a field or a chunk's length.
      client.write(data.subarray(0, left));
      left -= data.length;
      if (left > 0) return;
      seen.cuts += 1;
      client.resetAndDestroy();
      upstream.destroy();
    });
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, seen, server };
}

async function call(path, body) {
  const response = await fetch(api + path, body && {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": randomUUID() },
    body: JSON.stringify(body),
  });
  assert.ok(response.ok, `${path}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

/** Asks for an answer; gives what was accepted, and a way to fetch the stored message. */
async function ask(content) {
  const conversation = await call("/v1/conversations", { title: "eventsource" });
  const messages = `/v1/conversations/${conversation.id}/messages`;
  const accepted = await call(messages, { content });
  const stored = async () => (await call(messages)).items.find((message) => message.id === accepted.message_id);
  return { accepted, stored };
}

/** Follows a stream to its end; gives the text, the IDs of its events, how it ended, and the pings' data. */
async function follow(t, url) {
  const source = new EventSource(url);
  t.after(() => source.close());
  let text = "";
  const ids = [];
  const pings = [];
  source.addEventListener("ping", (event) => pings.push(event.data));
  const end = await new Promise((resolve) => {
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        const data = JSON.parse(event.data);
        ids.push(event.lastEventId);
        if (name === "started") text = "";
        if (name === "snapshot") text = data.text;
        if (name === "delta") text += data.text;
        if (["done", "failed", "cancelled"].includes(name)) resolve({ name, ...data });
      });
    }
  });
  assert.equal(end.name, "done");
  assert.equal(new Set(ids).size, ids.length, "an event came twice");
  return { text, ids, pings };
}

test("eventsource reads the exact answer across cuts", { timeout: 60_000 }, async (t) => {
  const { accepted, stored } = await ask(`${sample.directives} ${sample.paragraph.repeat(sample.repeat)}`);
  const proxy = await cuttingProxy([700, 2_501, 900, 4_003, 1_777, 3_333]);
  t.after(() => proxy.server.close());
  const { text, ids } = await follow(t, proxy.url + accepted.stream_url);

  const { content } = await stored();
  assert.ok(content.length > 2_000, "the answer is too short to be cut");
  assert.equal(text, content);
  // A busy machine merges events: fewer bytes, fewer cuts.
  assert.ok(proxy.seen.cuts >= 4, `cut ${proxy.seen.cuts} times`);
  const resumed = proxy.seen.resumed.filter(Boolean);
  assert.ok(resumed.length >= 4, `resumed with ${JSON.stringify(proxy.seen.resumed)}`);
  for (const id of resumed) assert.ok(ids.includes(id), `resumed after ${id}, which never came`);
});

test("eventsource sees pings, and none of them moves its cursor", { timeout: 60_000 }, async (t) => {
  const { accepted, stored } = await ask("[[ttft=8s]] [[tokens=20]] [[rate=100]]");
  while ((await call(`/v1/tasks/${accepted.task_id}`)).status !== "running") await sleep(25);
  // The first connection brings `started` and a ping, the second one a ping and nothing else.
  const proxy = await cuttingProxy([PING, PING]);
  t.after(() => proxy.server.close());
  const { text, ids, pings } = await follow(t, proxy.url + accepted.stream_url);

  assert.equal(text, (await stored()).content);
  assert.deepEqual(proxy.seen.resumed, [null, ids[0], ids[0]]);
  assert.ok(pings.length >= 2, `${pings.length} pings`);
  assert.deepEqual([...new Set(pings)], ['{"type":"ping"}']);
});
