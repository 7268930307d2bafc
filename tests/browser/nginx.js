// A real nginx in front of a server, under a path of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "./harness.js";

// Debian keeps it where only root's PATH leads.
const program = existsSync("/usr/sbin/nginx") ? "/usr/sbin/nginx" : "nginx";

export class Nginx {
  #directory = mkdtempSync(join(tmpdir(), "rill-nginx-"));
  #process = null;

  /** Listens on `port`; what is under `path` goes to `upstream`. */
  static async start(port, path, upstream) {
    const nginx = new Nginx();
    const at = nginx.#directory;
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((kind) => `${kind}_temp_path ${at}/${kind};`);
    writeFileSync(`${at}/nginx.conf`, `daemon off; worker_processes 1; pid ${at}/pid; error_log ${at}/log;
      events {}
      http { access_log off; ${temporary.join(" ")}
        server { listen 127.0.0.1:${port}; location ${path} { proxy_pass ${upstream}/; } } }`);
    nginx.#process = spawn(program, ["-c", `${at}/nginx.conf`, "-e", `${at}/log`], { stdio: "ignore" });
    await until("nginx answers", () => new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1").on("connect", () => resolve(true)).on("error", () => resolve(false));
      socket.on("connect", () => socket.destroy());
    }));
    return nginx;
  }

  async stop() {
    if (this.#process.exitCode === null) {
      this.#process.kill("SIGTERM");
      await once(this.#process, "exit");
    }
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
