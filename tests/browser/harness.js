// The real binary on a free port, with a database and a Redis prefix of its own, and Chromium.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = fileURLToPath(new URL("../../", import.meta.url));
const binary = process.env.RILL_BIN ?? `${root}target/debug/rill`;
export const screenshots = `${root}target/screenshots/`;
mkdirSync(screenshots, { recursive: true });

export const SIZES = [
  { name: "360", width: 360, height: 740 },
  { name: "1280", width: 1280, height: 800 },
];

// Whatever ends this process ends the servers that it has started.
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

/** One `rill up`, and what it keeps its data in. */
export class Server {
  #name = `rill_browser_${process.pid}_${Date.now()}`;
  #process = null;
  #log = [];
  #options;

  constructor(options) {
    this.#options = options;
  }

  /** `options` are environment variables that differ from the tests' usual ones. */
  static async start(options = {}) {
    const server = new Server(options);
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    if (process.env.DATABASE_URL) server.#psql(`create database ${server.#name}`);
    await server.up();
    return server;
  }

  /** Starts it, or starts it again with the same data. */
  async up() {
    const env = {
      ...process.env,
      RILL_LISTEN: `127.0.0.1:${this.port}`,
      RILL_REDIS_PREFIX: this.#name,
      // Work of a worker that was killed is taken over after a lease.
      RILL_LEASE: "2s",
      RILL_HEARTBEAT: "500ms",
      ...this.#options,
    };
    // Whatever the machine is configured for, the simulator answers here.
    for (const name of ["OPENAI_API_KEY", "OPENAI_BASE_URL", "RILL_UPSTREAMS", "RILL_MODELS"]) delete env[name];
    if (env.DATABASE_URL) env.DATABASE_URL = withDatabase(env.DATABASE_URL, this.#name);
    this.#process = spawn(binary, ["up"], { env, stdio: ["ignore", "pipe", "pipe"] });
    const child = this.#process;
    running.add(child);
    child.on("exit", () => running.delete(child));
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.on("data", (data) => {
        this.#log.push(...String(data).split("\n"));
        this.#log.splice(0, this.#log.length - 200);
      });
    }
    await until(`the server is ready:\n${binary}`, async () => {
      if (this.#process.exitCode !== null) throw new Error(`rill up ended:\n${this.#log.join("\n")}`);
      return (await fetch(`${this.url}/readyz`).catch(() => null))?.ok;
    }, 30_000);
  }

  /** SIGKILL: no good-byes. */
  async kill() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    this.#process.kill("SIGKILL");
    await once(this.#process, "exit");
  }

  async stop() {
    await this.kill();
    if (process.env.DATABASE_URL) this.#psql(`drop database if exists ${this.#name} with (force)`);
  }

  async api(path, options) {
    const response = await fetch(this.url + path, options);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  async messages(conversation) {
    return (await this.api(`/v1/conversations/${conversation}/messages?limit=100`)).items;
  }

  #psql(statement) {
    execFileSync(process.env.POSTGRES_BIN ? `${process.env.POSTGRES_BIN}/psql` : "psql", ["-qX", "-v", "ON_ERROR_STOP=1", process.env.DATABASE_URL, "-c", statement], { stdio: "inherit" });
  }
}

function withDatabase(url, name) {
  return url.replace(/^(postgres(?:ql)?:\/\/[^/?]*)(?:\/[^?]*)?/, `$1/${name}`);
}

export async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

export function launch(more = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || execFileSync("which", ["chromium"], { encoding: "utf8" }).trim(),
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...more,
    ],
  });
}

/** Waits until `condition` gives something true, and gives that. */
export async function until(what, condition, deadline = 15_000) {
  const end = Date.now() + deadline;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
