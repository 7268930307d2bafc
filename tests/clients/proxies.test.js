// What stands between a browser and the API, and would like to collect events.

import assert from "node:assert/strict";
import http from "node:http";
import { once } from "node:events";
import { test } from "node:test";
import { randomUUID } from "node:crypto";
import compression from "compression";
import express from "express";

const api = process.env.RILL_URL;

/** Express as people put it in front: `compression` for everything, and a proxy. */
async function expressWithCompression() {
  const app = express();
  app.use(compression());
  app.use((request, response) => {
    const { method, headers } = request;
    const upstream = http.request(api + request.originalUrl, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(upstream);
    response.on("close", () => upstream.destroy());
  });
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, server };
}

async function call(url, body) {
  const response = await fetch(url, body && {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": randomUUID() },
    body: JSON.stringify(body),
  });
  assert.ok(response.ok, `${url}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

test("behind Express with compression, events come while the answer is written", { timeout: 60_000 }, async (t) => {
  const proxy = await expressWithCompression();
  t.after(() => {
    proxy.server.closeAllConnections();
    proxy.server.close();
  });
  const document = await fetch(`${proxy.url}/openapi.json`);
  assert.equal(document.headers.get("content-encoding"), "gzip", "the proxy compresses");
  await document.arrayBuffer();

  const conversation = await call(`${proxy.url}/v1/conversations`, {});
  const content = "[[ttft=10ms]] [[tokens=600]] [[rate=20]]";
  const accepted = await call(`${proxy.url}/v1/conversations/${conversation.id}/messages`, { content });
  const stream = await fetch(proxy.url + accepted.stream_url);
  assert.equal(stream.headers.get("content-encoding"), null);
  assert.match(stream.headers.get("cache-control"), /no-transform/);
  let text = "";
  for await (const chunk of stream.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes("event: delta")) break;
  }
  // Half a minute of answer: collected, nothing of it would be here before its end.
  const task = await call(`${api}/v1/tasks/${accepted.task_id}`);
  assert.equal(task.status, "running");
  await call(`${api}/v1/tasks/${accepted.task_id}/cancel`, {});
});
