// A TCP proxy that does to event streams as networks and other proxies do.

import { once } from "node:events";
import { connect, createServer } from "node:net";

const GET = /^GET (\S+) HTTP/gm;
const STREAM = /\/v1\/tasks\/[^/]+\/stream/;
/** A chunk of a response that ends with an event: where a proxy can end the response cleanly. */
const EVENT_AND_CHUNK_END = "\n\n\r\n";
const LAST_CHUNK = "0\r\n\r\n";

export class Proxy {
  /** The paths that were asked for, in order. */
  requests = [];
  #upstream;
  #listener;
  #connections = new Set();
  #holding = false;

  static async start(upstream) {
    const proxy = new Proxy();
    proxy.#upstream = new URL(upstream);
    proxy.#listener = createServer((client) => proxy.#serve(client)).listen(0, "127.0.0.1");
    await once(proxy.#listener, "listening");
    proxy.url = `http://127.0.0.1:${proxy.#listener.address().port}`;
    return proxy;
  }

  stop() {
    this.#listener.close();
    for (const { leave } of this.#connections) leave();
  }

  /** The requests for streams: one for each connection of a reader. */
  get streams() {
    return this.requests.filter((path) => STREAM.test(path));
  }

  /** Resets each stream within its next event. */
  cut() {
    return this.#endEach((connection, data) => {
      connection.client.write(data.subarray(0, data.length / 2));
      connection.client.resetAndDestroy();
      return true;
    });
  }

  /** Ends each response after its next event, as if that were all of it. */
  endCleanly() {
    return this.#endEach((connection, data) => {
      connection.client.write(data);
      if (!data.subarray(-EVENT_AND_CHUNK_END.length).equals(Buffer.from(EVENT_AND_CHUNK_END))) return false;
      connection.client.end(LAST_CHUNK);
      return true;
    });
  }

  /** From now on streams bring nothing, while their connections stay open: those there are and those to come. */
  hold() {
    this.#holding = true;
    for (const connection of this.#streaming()) connection.held = true;
  }

  /** Lets connections pass that are yet to come; those that are held stay so. */
  release() {
    this.#holding = false;
  }

  #streaming() {
    return [...this.#connections].filter(({ streaming, held }) => streaming && !held);
  }

  #endEach(end) {
    const ended = this.#streaming().map((connection) => new Promise((resolve) => {
      connection.end = (data) => {
        if (!end(connection, data)) return;
        connection.held = true;
        connection.upstream.destroy();
        resolve();
      };
    }));
    if (ended.length === 0) throw new Error("there is no stream to end");
    return Promise.all(ended);
  }

  #serve(client) {
    const upstream = connect(Number(this.#upstream.port), this.#upstream.hostname);
    const leave = () => {
      client.destroy();
      upstream.destroy();
      this.#connections.delete(connection);
    };
    const connection = { client, upstream, leave, streaming: false, held: false, end: null };
    this.#connections.add(connection);
    client.on("data", (data) => {
      for (const [, path] of String(data).matchAll(GET)) {
        this.requests.push(path);
        connection.streaming = STREAM.test(path);
        connection.held ||= connection.streaming && this.#holding;
      }
      if (!connection.held) upstream.write(data);
    });
    upstream.on("data", (data) => {
      if (connection.held) return;
      if (connection.end) connection.end(data);
      else client.write(data);
    });
    client.on("error", leave).on("close", leave);
    upstream.on("error", () => {}).on("close", () => connection.held || leave());
  }
}
