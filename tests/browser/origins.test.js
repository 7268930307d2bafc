// Where the page is: under a path of a proxy's; and who else's pages can do what.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import * as chat from "./chat.js";
import { freePort, launch, Server, SIZES, until } from "./harness.js";
import { Nginx } from "./nginx.js";

describe("the page under a path", () => {
  let server;
  let nginx;
  let browser;
  let root;
  before(async () => {
    const port = await freePort();
    root = `http://127.0.0.1:${port}/chat`;
    server = await Server.start({ RILL_PUBLIC_URL: `${root}/` });
    nginx = await Nginx.start(port, "/chat/", server.url);
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await nginx?.stop();
    await server?.stop();
  });

  test("an answer is read, stopped and read again behind nginx", async () => {
    const page = await chat.open(browser, { url: root }, SIZES[1]);
    await chat.send(page, "Tell me about rivers. [[tokens=2000]] [[rate=40]]");
    await chat.untilLonger(page, 100);
    await page.reload();
    await chat.untilLonger(page, 150);
    await page.click("#stop");
    await chat.untilEnded(page);
    assert.match(page.url(), /\/chat\/#\/c\//);
    await chat.send(page, "And once more. [[tokens=20]]");
    assert.match(await chat.untilEnded(page), /identical to the stored answer/);
    await page.getByRole("link", { name: "API documentation" }).click();
    await until("the documentation is shown", async () => (await page.textContent("body")).includes("createMessage") || (await page.textContent("body")).includes("Send a message"));
    assert.ok(page.url().startsWith(`${root}/docs`));
    await page.context().close();
  });
});

describe("pages of others", () => {
  let server;
  let browser;
  let evil;
  before(async () => {
    server = await Server.start();
    // A name of the attacker's that turns into the server's address.
    browser = await launch(["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
    evil = createServer((_, response) => response.setHeader("content-type", "text/html").end("<title>evil</title>")).listen(0, "127.0.0.1");
    await once(evil, "listening");
  });
  after(async () => {
    await browser?.close();
    evil?.close();
    await server?.stop();
  });

  const post = (path, body) => server.api(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

  test("none of them stops an answer, says something or reads anything", async () => {
    const conversation = await post("/v1/conversations", {});
    const messages = `/v1/conversations/${conversation.id}/messages`;
    const accepted = await post(messages, { content: "[[tokens=3000]] [[rate=20]]" });
    const task = () => server.api(`/v1/tasks/${accepted.task_id}`);
    await until("it runs", async () => (await task()).status === "running");
    const page = await browser.newPage();
    for (const origin of [`http://127.0.0.1:${evil.address().port}`, `http://localhost:${evil.address().port}`, `http://evil.example:${evil.address().port}`]) {
      await page.goto(origin);
      // Sent without a preflight: the page sees nothing of the answer, whatever it is.
      const sent = await page.evaluate(async ([url, paths]) => {
        const options = { method: "POST", mode: "no-cors", headers: { "content-type": "text/plain" }, body: '{"content":"x"}' };
        return Promise.all(paths.map((path) => fetch(url + path, options).then((response) => response.type, String)));
      }, [server.url, [`/v1/tasks/${accepted.task_id}/cancel`, messages, "/v1/conversations"]]);
      assert.deepEqual(sent, ["opaque", "opaque", "opaque"], "they were sent");
    }
    // After the rebinding, the page is of the same origin as the server: only the name tells.
    const rebound = `http://evil.example:${server.port}`;
    const response = await page.goto(`${rebound}/`);
    assert.equal(response.status(), 421);
    const answers = await page.evaluate(async ([cancel]) => {
      const options = { method: "POST", headers: { "content-type": "application/json" }, body: "{}" };
      const answers = await Promise.all([fetch("/v1/conversations"), fetch(cancel, options), fetch("/v1/conversations", options)]);
      return answers.map((answer) => answer.status);
    }, [`/v1/tasks/${accepted.task_id}/cancel`]);
    assert.deepEqual(answers, [421, 421, 421]);
    assert.equal((await task()).status, "running");
    assert.equal((await server.api("/v1/conversations")).items.length, 1);
    assert.equal((await server.messages(conversation.id)).length, 2);
    await post(`/v1/tasks/${accepted.task_id}/cancel`, {});
    await page.close();
  });
});
