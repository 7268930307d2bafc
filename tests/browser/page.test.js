// The chat page, as a user meets it, on a phone and on a desk.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import * as chat from "./chat.js";
import { launch, Server, SIZES, until } from "./harness.js";

let server;
let browser;
before(async () => {
  server = await Server.start();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

// Most of their time the tests wait for a model: three at once.
describe("the chat page", { concurrency: 3 }, () => {
  for (const size of SIZES) {
    const at = (name) => `${name} at ${size.name} px`;
    const picture = (name) => `${size.name}-${name}`;

    test(at("the empty page says what to try and is sound"), async () => {
      const page = await chat.open(browser, server, size);
      assert.match(await page.textContent("#welcome h2"), /reload in the middle/);
      await page.waitForSelector(".suggestion");
      await chat.assertSound(page, picture("empty"));
      await chat.assertFocusVisible(page, 5);
      await page.click(".suggestion");
      assert.match(await page.inputValue("#text"), /\w/);
      await chat.close(page);
    });

    test(at("an answer goes on after a reload in its middle"), async () => {
      const page = await chat.open(browser, server, size);
      await chat.send(page, "Tell me about rivers. [[reasoning=10]] [[tokens=400]] [[rate=40]]");
      await chat.untilLonger(page, 150);
      const conversation = await chat.conversationOf(page);
      const before = await chat.answerLength(page);
      await page.reload();
      await chat.untilLonger(page, before);
      await chat.untilLine(page, /\[live\].*reloaded at event \d+-\d+, resumed there, nothing lost/);
      await chat.assertSound(page, picture("reloaded"));
      assert.match(await chat.untilEnded(page), /^Done · .*nothing lost · identical to the stored answer$/);
      await chat.assertSameAsStored(page, server);
      assert.equal((await server.messages(conversation)).length, 2);
      await chat.assertSound(page, picture("done"));
      await chat.assertFocusVisible(page, 8);
      await chat.close(page);
    });

    test(at("a second tab follows along, and sees what the first one sends"), async () => {
      const first = await chat.open(browser, server, size);
      await chat.send(first, "For two readers. [[tokens=300]] [[rate=40]]");
      await chat.untilLonger(first, 40);
      const second = await chat.openTab(first.context(), server, `#/c/${await chat.conversationOf(first)}`);
      await chat.untilLine(second, /\[live\] live · event 1-/);
      assert.match(await chat.untilEnded(first), /identical/);
      assert.match(await chat.untilEnded(second), /identical/);
      const { content } = await chat.assertSameAsStored(first, server);
      assert.equal(await chat.sourceOf(second), content);

      await chat.send(first, "Once more. [[tokens=60]] [[rate=40]]");
      await until("the second tab shows the new message", async () => (await second.locator(".message.assistant").count()) === 2);
      await chat.untilEnded(first);
      const again = await chat.assertSameAsStored(first, server);
      await until("the second tab has all of it", async () => (await chat.sourceOf(second)) === again.content);
      await chat.assertSound(second, picture("second-tab"));
      assert.deepEqual(second.faults, []);
      await chat.close(first);
    });

    test(at("stop ends the answer and keeps what there is"), async () => {
      const page = await chat.open(browser, server, size);
      await chat.send(page, "Too long. [[tokens=2000]] [[rate=40]]");
      await chat.untilLonger(page, 100);
      await page.click("#stop");
      assert.match(await chat.untilEnded(page), /^Stopped · .*identical to the stored answer$/);
      const stored = await chat.assertSameAsStored(page, server);
      assert.equal(stored.task.status, "cancelled");
      assert.ok(await page.isVisible("#send"));
      await chat.assertSound(page, picture("stopped"));
      await chat.close(page);
    });

    test(at("a conversation is renamed, found again and deleted, by keyboard"), async () => {
      const page = await chat.open(browser, server, size);
      await chat.send(page, "Keep this. [[tokens=5]] [[rate=100]]");
      await chat.untilEnded(page);
      const conversation = await chat.conversationOf(page);
      await page.focus("#rename");
      await page.keyboard.press("Enter");
      await page.keyboard.type("A river, renamed");
      await chat.assertSound(page, picture("rename"));
      await page.keyboard.press("Enter");
      await until("the new title", async () => (await page.textContent("#title")) === "A river, renamed");
      assert.equal((await server.api(`/v1/conversations/${conversation}`)).title, "A river, renamed");

      if (size.width < 800) {
        await page.focus("#menu");
        await page.keyboard.press("Enter");
        await page.waitForSelector("#sidebar.open");
        await chat.assertSound(page, picture("drawer"));
      }
      await page.getByRole("link", { name: "New conversation" }).click();
      await until("a new conversation", async () => (await page.textContent("#title")) === "New conversation");
      if (size.width < 800) await page.click("#menu");
      await page.getByRole("link", { name: /A river, renamed/ }).first().click();
      await page.waitForSelector(".message.assistant");

      await page.focus("#delete");
      await page.keyboard.press("Enter");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "Keep it");
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await until("it is gone", async () => (await fetch(`${server.url}/v1/conversations/${conversation}`)).status === 404);
      await until("back at the start", () => page.isVisible("#welcome"));
      await chat.close(page);
    });

    test(at("what is suggested suits the model that is chosen"), async () => {
      const page = await chat.open(browser, server, size);
      await page.route(/\/v1\/models$/, (route) => route.fulfill({ json: { items: [
        { id: "large", upstream: "openai", default: true },
        { id: "simulator", upstream: "simulator", default: false },
      ] } }));
      await page.reload();
      await page.waitForSelector(".suggestion");
      const suggested = () => page.textContent("#suggestions");
      assert.doesNotMatch(await suggested(), /\[\[/);
      await page.selectOption("#model", "simulator");
      assert.match(await suggested(), /\[\[/);
      await page.selectOption("#model", "large");
      assert.doesNotMatch(await suggested(), /\[\[/);
      await chat.close(page);
    });

    test(at("errors are shown as text, with their code, and the text comes back"), async () => {
      const page = await chat.open(browser, server, size, "#/c/01890a5d-ac96-774b-bcce-b302099a8057");
      await page.waitForSelector("#notice:not([hidden])");
      assert.match(await page.textContent("#notice p"), /\(.*not_found\)/);
      await chat.assertSound(page, picture("not-found"));
      await page.goto(`${server.url}/#/`);
      await chat.send(page, "\u0000 can't be stored");
      await page.waitForSelector("#notice:not([hidden])");
      assert.match(await page.textContent("#notice p"), /\([a-z_]+\)/);
      assert.match(await page.inputValue("#text"), /can't be stored/);
      await chat.close(page);
    });
  }
});
