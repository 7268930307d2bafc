// An OpenAI-compatible relay over npm's resumable-stream, for the same client as
// rill's:
//
//   npm install --prefix benches/others
//   cargo bench --bench delivery -- --load floor-100x20 \
//     --relay 'node benches/others/resumable-stream.mjs redis'
//
// direct  one process; a reader keeps the response to its POST
// redis   two; the one that readers ask gets the other's streams through Redis
import { fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import http from "node:http";
import { createClient } from "redis";
import { createResumableStreamContext } from "resumable-stream";

const mode = process.argv[2];
const url = process.env.REDIS_URL;
const model = `${process.env.OPENAI_BASE_URL}/chat/completions`;
const [subscriber, publisher] = [createClient({ url }), createClient({ url })];
await Promise.all([subscriber.connect(), publisher.connect()]);
const context = createResumableStreamContext({ waitUntil: null, subscriber, publisher });
const agent = new http.Agent({ keepAlive: true });

const post = (to, body, headers) =>
  new Promise((resolve, reject) => {
    const length = { "content-length": Buffer.byteLength(body) };
    const options = { method: "POST", agent, headers: { ...headers, ...length } };
    http.request(to, options).on("response", resolve).on("error", reject).end(body);
  });

const text = async (incoming) => {
  let whole = "";
  for await (const piece of incoming.setEncoding("utf8")) whole += piece;
  return whole;
};

/** The model's answer, as resumable-stream takes it. */
const answer = (question) => () =>
  new ReadableStream({
    async start(controller) {
      const response = await post(model, question, { "content-type": "application/json" });
      response.setEncoding("utf8");
      response.on("data", (piece) => controller.enqueue(piece));
      response.on("end", () => controller.close());
    },
  });

const copy = async (stream, response) => {
  for await (const piece of stream) response?.write(piece);
  response?.end();
};

const serve = (handle) =>
  new Promise((resolve) => {
    const server = http.createServer(async (request, response) => {
      response.socket.setNoDelay(true);
      await handle(request.headers["x-id"], await text(request), response);
    });
    server.listen(0, "127.0.0.1", 4096, () => resolve(server.address().port));
  });

const begin = (response) => response.writeHead(200, { "content-type": "text/event-stream" });
const say = (port) => console.error(`the relay is at http://127.0.0.1:${port}`);

if (mode === "produce") {
  process.once("disconnect", () => process.exit());
  const port = await serve(async (id, question, response) => {
    copy(await context.createNewResumableStream(id, answer(question)));
    response.end();
  });
  process.send(port);
} else if (mode === "redis") {
  const producer = fork(process.argv[1], ["produce"]);
  const behind = await new Promise((resolve) => producer.once("message", resolve));
  const port = await serve(async (_, question, response) => {
    const id = randomUUID();
    await text(await post(`http://127.0.0.1:${behind}/`, question, { "x-id": id }));
    await copy(await context.resumeExistingStream(id), begin(response));
  });
  say(port);
} else if (mode === "direct") {
  const port = await serve(async (_, question, response) => {
    await copy(await context.createNewResumableStream(randomUUID(), answer(question)), begin(response));
  });
  say(port);
} else {
  console.error("usage: resumable-stream.mjs direct|redis");
  process.exit(2);
}
