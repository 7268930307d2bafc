// The page's own modules, in a browser: they need a DOM.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import * as chat from "./chat.js";
import { launch, Server, SIZES } from "./harness.js";

let server;
let browser;
let page;
before(async () => {
  server = await Server.start();
  browser = await launch();
  page = await chat.open(browser, server, SIZES[1]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const render = (text) =>
  page.evaluate(async (source) => {
    const { Markdown } = await import("/assets/markdown.js");
    const root = document.createElement("div");
    new Markdown(root).replace(source);
    return root.innerHTML;
  }, text);

const DOCUMENT = `# A river

It **begins** as a *spring*, with \`water\`,
and [goes on](https://example.org/a?b=c).

- one
- two, with more
  on the next line
  - nested **bold**
  1. numbered

- three

1. first
2. second

> a quote
> of two lines

| a | b |
|---|:-:|
| 1 | \`2\` |

\`\`\`js
if (a < b && "<b>") { return \`x\`; }

const still = "code";
\`\`\`

---
## Half a **bold, and a lone * star, snake_case_name, 2 * 3 * 4 \\*no\\*
https://example.org/path_(x). 🌊 end`;

test("the usual Markdown becomes the usual elements", async () => {
  assert.equal(await render("# T\n\na **b** *c* `d <e>`\n\n- x\n- y\n  - z\n"), "<h3>T</h3><p>a <strong>b</strong> <em>c</em> <code>d &lt;e&gt;</code></p><ul><li>x</li><li>y<ul><li>z</li></ul></li></ul>");
  assert.equal(await render("```rust\nlet a = 1;\n\n# no heading\n```\nafter"), '<pre tabindex="0" data-language="rust"><code>let a = 1;\n\n# no heading</code></pre><p>after</p>');
  assert.equal(await render("snake_case_name and 2 * 3 * 4"), "<p>snake_case_name and 2 * 3 * 4</p>");
  assert.equal(await render("3. c\n4. d"), '<ol start="3"><li>c</li><li>d</li></ol>');
  assert.match(await render("[a](https://example.org/)"), /^<p><a href="https:\/\/example.org\/" rel="noopener noreferrer" target="_blank">a<\/a><\/p>$/);
  assert.match(await render(DOCUMENT), /<table>.*<th>a<\/th>.*<code>2<\/code>/);
});

test("text that comes in pieces looks the same as text that comes whole", async () => {
  const different = await page.evaluate(async (source) => {
    const { Markdown } = await import("/assets/markdown.js");
    const draw = (pieces) => {
      const root = document.createElement("div");
      const markdown = new Markdown(root);
      for (const piece of pieces) markdown.append(piece);
      return root.innerHTML;
    };
    const whole = draw([source]);
    let seed = 7;
    const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
    for (let round = 0; round < 300; round += 1) {
      const pieces = [];
      const longest = 1 + (round % 40);
      for (let i = 0; i < source.length; ) {
        const length = 1 + random(longest);
        pieces.push(source.slice(i, i + length));
        i += length;
      }
      if (draw(pieces) !== whole) return { pieces: JSON.stringify(pieces), drawn: draw(pieces), whole };
    }
    return null;
  }, DOCUMENT);
  assert.equal(different, null);
});

test("nothing that a model writes becomes live", async () => {
  const attack = [
    "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>",
    "[a](javascript:window.hacked=1) [b](JaVaScRiPt:alert(1)) [c](data:text/html,<b>) ![d](https://example.org/p.png)",
    "[e](vbscript:x) [f](//example.org) [g](\tjavascript:1) javascript:alert(1)",
    "```\"><svg onload=window.hacked=1>\ncode</code></pre><b>bold</b>\n```",
    "| <b>a</b> | b |\n|---|---|\n| <i>c</i> | d |",
    "[](javascript:1) [[h](javascript:1)](https://example.org/)",
  ].join("\n\n");
  const made = await page.evaluate(async (source) => {
    const { Markdown } = await import("/assets/markdown.js");
    const root = document.body.appendChild(document.createElement("div"));
    new Markdown(root).replace(source);
    const elements = [...root.querySelectorAll("*")];
    const result = {
      tags: [...new Set(elements.map((e) => e.localName))].sort(),
      attributes: [...new Set(elements.flatMap((e) => e.getAttributeNames()))].sort(),
      links: [...root.querySelectorAll("a")].map((a) => a.protocol),
      hacked: "hacked" in window,
    };
    root.remove();
    return result;
  }, attack);
  for (const tag of made.tags) assert.ok(["a", "br", "code", "div", "p", "pre", "table", "tbody", "td", "th", "thead", "tr"].includes(tag), tag);
  for (const name of made.attributes) assert.ok(["class", "data-language", "href", "rel", "tabindex", "target"].includes(name), name);
  for (const protocol of made.links) assert.equal(protocol, "https:");
  assert.equal(made.hacked, false);
});

test("hostile text costs a bounded time", async () => {
  for (const unit of ["*", "**a ", "`", "[", "[a](", "> ", "_a", "- ", "|", "http://", "\\", "```\n", "  - a\n", "1. "]) {
    const ms = await page.evaluate(async (source) => {
      const { Markdown } = await import("/assets/markdown.js");
      const root = document.createElement("div");
      const began = performance.now();
      new Markdown(root).replace(source);
      return performance.now() - began;
    }, unit.repeat(Math.ceil(50_000 / unit.length)));
    assert.ok(ms < 3_000, `${JSON.stringify(unit)}: ${ms} ms`);
  }
});

test("the reader's rules: resets replace, the rest appends, what was applied is dropped", async () => {
  const seen = await page.evaluate(async () => {
    const { Answer } = await import("/assets/answer.js");
    const answer = new Answer();
    const texts = [];
    for (const [name, id, data] of [
      ["started", "1-0", { attempt: 1, model: "m" }],
      ["delta", "1-1", { text: "a" }],
      ["delta", "1-2", { text: "b" }],
      ["delta", "1-2", { text: "b" }],
      ["later", "1-3", { text: "?" }],
      ["started", "2-0", { attempt: 2, model: "m" }],
      ["delta", "1-4", { text: "zombie" }],
      ["delta", "2-1", { text: "c" }],
      ["snapshot", "2-10", { text: "cdef", reasoning: "r" }],
      ["delta", "2-11", { text: "g" }],
      ["tool_call", "2-12", { index: 0, id: "t", name: "n", arguments: "{" }],
      ["tool_call", "2-13", { index: 0, arguments: "}" }],
      ["done", "2-14", { message_id: "m", finish_reason: "stop", usage: {} }],
    ]) {
      answer.apply(name, id, data);
      texts.push(answer.text);
    }
    return { texts, end: answer.end.name, tools: answer.toolCalls, reasoning: answer.reasoning };
  });
  assert.deepEqual(seen.texts, ["", "a", "ab", "ab", "ab", "", "", "c", "cdef", "cdefg", "cdefg", "cdefg", "cdefg"]);
  assert.equal(seen.end, "done");
  assert.equal(seen.reasoning, "r");
  assert.deepEqual(seen.tools, [{ id: "t", name: "n", arguments: "{}" }]);
});
