// Where the focus is, and what is announced: for those who use a keyboard or a screen reader.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import * as chat from "./chat.js";
import { launch, Server, SIZES, until } from "./harness.js";

let server;
let browser;
before(async () => {
  // A retry that is awaited for as long as a test looks.
  server = await Server.start({ RILL_RETRY_BASE: "10m", RILL_RETRY_MAX: "10m" });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** The ID, or the text, of what has the focus. */
const focused = (page) => page.evaluate(() => {
  const e = document.activeElement;
  return e === document.body ? "nobody" : e.id || e.textContent.trim();
});
const untilFocused = (page, what) =>
  until(`the focus is on ${what}`, async () => (await focused(page)) === what).catch(async (error) => {
    throw new Error(`${error.message}; it is on ${await focused(page)}`);
  });
const press = async (page, selector, key = "Enter") => {
  await page.focus(selector);
  await page.keyboard.press(key);
};
const untilAnnounced = (page, text) =>
  until(`«${text}» is announced`, async () => (await page.textContent("#announce")).trim() === text);

/** Two frames: by then the browser has taken the focus from what can't have it. */
const drawn = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))));

async function answered(page) {
  await chat.send(page, "Keep this. [[tokens=5]] [[rate=100]]");
  await chat.untilEnded(page);
}

describe("the focus", { concurrency: 3 }, () => {
  test("goes into the menu when it opens, and back, with and without motion", async () => {
    for (const reducedMotion of ["no-preference", "reduce"]) {
      const page = await chat.open(browser, server, SIZES[0]);
      await page.emulateMedia({ reducedMotion });
      for (const close of [() => page.keyboard.press("Escape"), () => page.keyboard.press("Enter")]) {
        await press(page, "#menu");
        await drawn(page);
        assert.equal(await focused(page), "menu-close", reducedMotion);
        await close();
        await drawn(page);
        assert.equal(await focused(page), "menu", reducedMotion);
      }
      // A window that becomes wide has no menu, one that becomes narrow hides it.
      await press(page, "#menu");
      await page.setViewportSize(SIZES[1]);
      await untilFocused(page, "new");
      await page.setViewportSize(SIZES[0]);
      await untilFocused(page, "menu");
      await chat.close(page);
    }
  });

  for (const size of SIZES) {
    test(`comes back from each dialog, and to the message box after a deletion, at ${size.name} px`, async () => {
      const page = await chat.open(browser, server, size);
      await answered(page);
      for (const [button, dialog] of [["#rename", "#rename-dialog"], ["#delete", "#delete-dialog"]]) {
        for (const leave of [() => page.keyboard.press("Escape"), () => press(page, `${dialog} button[type=button]`)]) {
          await press(page, button);
          await page.waitForSelector(`${dialog}[open]`);
          await leave();
          await untilFocused(page, button.slice(1));
        }
      }
      await press(page, "#rename");
      await page.keyboard.type("A river");
      await page.keyboard.press("Enter");
      await untilAnnounced(page, "Renamed to A river.");
      await untilFocused(page, "rename");
      await press(page, "#delete");
      await press(page, "#delete-dialog button[value=ok]");
      await untilAnnounced(page, "The conversation was deleted.");
      await until("back at the start", () => page.isVisible("#welcome"));
      await drawn(page);
      assert.equal(await focused(page), "text");
      await chat.close(page);
    });
  }

  test("stays on the page when what has it goes away by itself", async () => {
    const page = await chat.open(browser, server, SIZES[1]);
    await chat.send(page, "Short. [[tokens=80]] [[rate=40]]");
    await chat.untilLonger(page, 10);
    await press(page, "#cut");
    await chat.untilLine(page, /\[reconnecting\]/);
    await drawn(page);
    assert.equal(await focused(page), "cut", "a button that does nothing for a while");
    await chat.untilLine(page, /\[live\]/);
    await page.focus("#stop");
    await chat.untilEnded(page);
    await untilFocused(page, "text");

    // Deleted elsewhere.
    await page.focus("#rename");
    const conversation = await chat.conversationOf(page);
    await fetch(`${server.url}/v1/conversations/${conversation}`, { method: "DELETE" });
    await page.evaluate(() => dispatchEvent(new Event("focus")));
    await page.waitForSelector("#rename", { state: "hidden" });
    await untilFocused(page, "text");

    // A message that is tried again.
    await page.goto(`${server.url}/#/`);
    await page.route(/\/messages$/, (route) => route.fulfill({ status: 503 }));
    await chat.send(page, "Lost.");
    await page.getByRole("button", { name: "Try again" }).focus();
    await page.keyboard.press("Enter");
    await untilFocused(page, "scroll");
    await chat.close(page);
  });

  test("is not taken back from who leaves it", async () => {
    const page = await chat.open(browser, server, SIZES[1]);
    await page.evaluate(() => document.activeElement.blur());
    await answered(page);
    await page.evaluate(() => document.activeElement.blur());
    await page.evaluate(() => document.querySelector("#announce").classList.add("changed"));
    await drawn(page);
    await drawn(page);
    assert.equal(await focused(page), "nobody");
    await chat.close(page);
  });
});

test("an answer that failed and is awaited again is not live, and this is announced", async () => {
  const page = await chat.open(browser, server, SIZES[0]);
  await chat.send(page, "Break. [[tokens=80]] [[rate=40]] [[cut=20]]");
  const line = await chat.untilLine(page, /attempt 1 failed/);
  assert.match(line, /^\[retrying\] retrying · event 1-\d+ · attempt 1 failed \([a-z_]+\), another follows$/);
  await untilAnnounced(page, "This attempt failed, another follows.");
  await chat.assertSound(page, "360-retrying");
  await page.click("#stop");
  assert.match(await chat.untilEnded(page), /^Stopped · /);
  await untilAnnounced(page, "Stopped.");
  await chat.close(page);
});

test("an answer that waits for a worker is not live", async (t) => {
  const own = await Server.start({ RILL_CONCURRENCY: "1" });
  t.after(() => own.stop());
  const first = await chat.open(browser, own, SIZES[0]);
  await chat.send(first, "Long. [[tokens=5000]] [[rate=40]]");
  await chat.untilLonger(first, 10);
  const second = await chat.open(browser, own, SIZES[0]);
  await chat.send(second, "Wait. [[tokens=100]] [[rate=40]]");
  assert.equal(await chat.untilLine(second, /waiting/), "[waiting] waiting for a worker");
  await chat.assertSound(second, "360-waiting");
  await first.click("#stop");
  await chat.untilLine(second, /^\[live\] live · event 1-/);
  await chat.close(first);
  await chat.close(second);
});
