// npm `eventsource` follows a stream over connections that break, and misses nothing.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import net from "node:net";
import { once } from "node:events";
import { test } from "node:test";
import { randomUUID } from "node:crypto";
import { EventSource } from "eventsource";

const api = process.env.RILL_URL;
const sample = JSON.parse(readFileSync(new URL("sample.json", import.meta.url)));
const EVENTS = ["started", "delta", "reasoning", "tool_call", "retrying", "snapshot", "done", "failed", "cancelled"];

/** Breaks a connection after each of `limits` bytes of answer; then lets everything through. */
async function cuttingProxy(limits) {
  const { hostname, port } = new URL(api);
  const seen = { cuts: 0, resumed: [] };
  const server = net.createServer((client) => {
    const upstream = net.connect(Number(port), hostname);
    let left = limits.shift() ?? Infinity;
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    client.once("data", (head) => seen.resumed.push(String(head).match(/last-event-id: *(\S+)/i)?.[1] ?? null));
    client.on("data", (data) => upstream.write(data));
    upstream.on("data", (data) => {
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

test("eventsource reads the exact answer across cuts", { timeout: 60_000 }, async (t) => {
  const conversation = await call("/v1/conversations", { title: "eventsource" });
  const content = `${sample.directives} ${sample.paragraph.repeat(sample.repeat)}`;
  const sent = await call(`/v1/conversations/${conversation.id}/messages`, { content });
  const proxy = await cuttingProxy([700, 2_501, 900, 4_003, 1_777, 3_333]);
  const source = new EventSource(proxy.url + sent.stream_url);
  t.after(() => {
    source.close();
    proxy.server.close();
  });

  let text = "";
  const ids = [];
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
  const { items } = await call(`/v1/conversations/${conversation.id}/messages`);
  const stored = items.find((message) => message.id === sent.message_id);
  assert.ok(stored.content.length > 2_000, "the answer is too short to be cut");
  assert.equal(text, stored.content);
  // A busy machine merges events: fewer bytes, fewer cuts.
  assert.ok(proxy.seen.cuts >= 4, `cut ${proxy.seen.cuts} times`);
  assert.equal(new Set(ids).size, ids.length, "an event came twice");
  const resumed = proxy.seen.resumed.filter(Boolean);
  assert.ok(resumed.length >= 4, `resumed with ${JSON.stringify(proxy.seen.resumed)}`);
  for (const id of resumed) assert.ok(ids.includes(id), `resumed after ${id}, which never came`);
});
