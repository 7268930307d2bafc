// What a user does and sees, as functions over a Playwright page.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { screenshots, until } from "./harness.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** A page in a browser context of its own; errors of the page fail the test that ends with `close`. */
export async function open(browser, server, size, hash = "#/") {
  const context = await browser.newContext({
    viewport: { width: size.width, height: size.height },
    reducedMotion: "reduce", // a picture taken in the middle of a slide shows nothing
  });
  return openTab(context, server, hash);
}

export async function openTab(context, server, hash) {
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(String(error)));
  page.on("console", (message) => {
    // Refused requests are logged by the browser itself; a refused policy or script is ours.
    if (message.type() === "error" && !/Failed to load resource|net::ERR|EventSource/.test(message.text())) page.faults.push(message.text());
  });
  await page.goto(`${server.url}/${hash}`);
  await page.waitForSelector("#model option", { state: "attached" });
  return page;
}

export async function close(page) {
  assert.deepEqual(page.faults, [], "errors on the page");
  await page.context().close();
}

export async function send(page, text) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
}

export const conversationOf = (page) =>
  until("the conversation has an address", () => page.url().match(/#\/c\/(.+)$/)?.[1]);

/** The newest answer's text as the page has it, exactly: Markdown would hide some of it. */
export async function sourceOf(page) {
  const answer = page.locator(".message.assistant").last();
  if (!(await answer.locator(".raw").count())) await answer.getByRole("button", { name: "Show source" }).click();
  return answer.locator(".raw").evaluate((raw) => raw.textContent);
}

export const answerLength = (page) =>
  page.evaluate(() => [...document.querySelectorAll(".message.assistant .body")].at(-1)?.textContent.length ?? 0);

export async function untilLonger(page, length) {
  await until(`an answer longer than ${length}`, async () => (await answerLength(page)) > length, 30_000);
}

export const lineOf = (page) => page.evaluate(() => {
  const line = document.querySelector("#line");
  return line.hidden ? "" : `[${line.dataset.state}] ${line.querySelector(".says").textContent}`;
});

/** Waits for the line to match, and gives what it says. */
export const untilLine = (page, pattern, deadline = 20_000) =>
  until(`the line matches ${pattern}`, async () => {
    const line = await lineOf(page);
    return pattern.test(line) && line;
  }, deadline);

/** Waits for the newest answer's last words, and gives them. */
export const untilEnded = (page, deadline = 40_000) =>
  until("the answer has ended", () => page.evaluate(() => {
    const last = [...document.querySelectorAll(".message.assistant")].at(-1);
    const footer = last?.querySelector(".footer");
    return footer && !last.classList.contains("streaming") && !footer.hidden && footer.textContent;
  }), deadline);

/** Counts the pings of streams that the page opens from now on. */
export const countPings = (page) => page.evaluate(() => {
  window.pings = 0;
  window.EventSource = class extends EventSource {
    constructor(url) {
      super(url);
      this.addEventListener("ping", () => (window.pings += 1));
    }
  };
});

/** Waits for the next ping, which the page has heard by then. */
export async function untilPing(page) {
  const before = await page.evaluate(() => window.pings);
  await until("a ping", () => page.evaluate((before) => window.pings > before, before));
}

/** The answer on the page is the API's, character for character. */
export async function assertSameAsStored(page, server) {
  const messages = await server.messages(await conversationOf(page));
  const stored = messages.filter((message) => message.role === "assistant").at(-1);
  assert.ok(stored.content.length > 0, "the stored answer is empty");
  assert.equal(await sourceOf(page), stored.content);
  return stored;
}

/** Nothing wider than the window, no violation known to axe, and a picture to look at. */
export async function assertSound(page, name) {
  const { scrollWidth, innerWidth, wide } = await page.evaluate(() => ({
    scrollWidth: document.documentElement.scrollWidth,
    innerWidth: window.innerWidth,
    wide: [...document.querySelectorAll("body *")]
      .filter((e) => !e.closest("pre, .table, .hidden, #sidebar[inert]") && e.getBoundingClientRect().right > window.innerWidth + 1)
      .map((e) => e.outerHTML.slice(0, 120)),
  }));
  await page.screenshot({ path: `${screenshots}${name}.png` });
  assert.ok(scrollWidth <= innerWidth, `${name}: ${scrollWidth} px wide in ${innerWidth}`);
  assert.deepEqual(wide, [], `${name}: reaches out of the window`);
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe);
  // Only colours depend on the scheme.
  for (const [colorScheme, runOnly] of [["light", undefined], ["dark", ["color-contrast"]]]) {
    await page.emulateMedia({ colorScheme });
    const found = await page.evaluate(async (rules) => (await window.axe.run(document, { resultTypes: ["violations"], runOnly: rules })).violations, runOnly);
    const told = found.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => `${n.html} ${n.failureSummary}`).join(" | ")}`);
    assert.deepEqual(told, [], `${name}, ${colorScheme}`);
  }
  await page.screenshot({ path: `${screenshots}${name}-dark.png` });
  await page.emulateMedia({ colorScheme: "light" });
}

/** Goes through the page with Tab: every stop can be seen, and shows that it has the focus. */
export async function assertFocusVisible(page, atLeast) {
  const stops = [];
  await page.evaluate(() => (window.focused = []));
  for (let i = 0; i < 60; i += 1) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body) return {}; // between the last stop and the first
      if (window.focused.includes(e)) return null;
      window.focused.push(e);
      const box = e.getBoundingClientRect();
      const rings = [e, e.closest("form")].filter(Boolean).map((x) => getComputedStyle(x));
      const ring = (parseFloat(rings[0].outlineWidth) >= 2 && rings[0].outlineStyle !== "none") || rings.some((s) => s.boxShadow !== "none");
      const inside = box.width > 0 && box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
      return { what: e.id || e.textContent.trim().slice(0, 30) || e.tagName, ring, inside };
    });
    if (!stop) break;
    if (stop.what) stops.push(stop);
  }
  assert.ok(stops.length >= atLeast, `only ${stops.length} stops: ${stops.map((s) => s.what)}`);
  assert.deepEqual(stops.filter((stop) => !stop.ring || !stop.inside), []);
}
