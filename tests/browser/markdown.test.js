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

\\(a_1 * b\\) and \\[c
* d\\] and $\\alpha$

\\[
x * y

\\]

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

test("formulas stay as they were written, and other backslashes are taken away", async () => {
  const paragraph = async (text) => (await render(text)).replace(/^<p>|<\/p>$/g, "");
  for (const formula of [
    String.raw`\(a_1 * b_2 * c\)`,
    String.raw`\[ \frac{a}{b} \]`,
    String.raw`$$x_{1}*y*z$$`,
    String.raw`$\alpha*\beta*$`,
    String.raw`$e^{*}_*$`,
  ]) {
    assert.equal(await paragraph(`so ${formula}, *then*`), `so ${formula}, <em>then</em>`);
    assert.equal(await paragraph(`**${formula}**`), `<strong>${formula}</strong>`);
  }
  assert.equal(await render("a\n\\[\nx_1 * y\n\n- z *\n\\]\n- b"), "<p>a</p><p>\\[<br>x_1 * y<br><br>- z *<br>\\]</p><ul><li>b</li></ul>");
  assert.equal(await render("- a\n  $$\n  x\n  $$"), "<ul><li>a<p>$$<br>x<br>$$</p></li></ul>");
  assert.equal(await render("a \\[ x_1\n= y \\] b"), "<p>a \\[ x_1<br>= y \\] b</p>");
  const every = "!\"#$%&'()*+,-./:;<=>?@[\\]^_\`{|}~";
  for (const c of every) {
    const shown = { "&": "&amp;", "<": "&lt;", ">": "&gt;" }[c] ?? c;
    assert.equal(await paragraph(`a \\${c} b`), `a ${shown} b`);
  }
  for (const [written, shown] of [
    [String.raw`\$5 and \$6 *or* $7`, "$5 and $6 <em>or</em> $7"],
    ["*$5* to *$6*", "<em>$5</em> to <em>$6</em>"],
    ["$HOME/a_b and $PATH *x*", "$HOME/a_b and $PATH <em>x</em>"],
    [String.raw`\[not a link\](https://example.org/a)`, '[not a link](<a href="https://example.org/a" rel="noopener noreferrer" target="_blank">https://example.org/a</a>)'],
    ["C:\\dir \\w+ \\\\ \\", "C:\\dir \\w+ \\ \\"],
    ["`\\(x\\) \\*`", String.raw`<code>\(x\) \*</code>`],
  ]) assert.equal(await paragraph(written), shown);
  assert.match(await render("| a \\| b | `c \\| d` |\n|---|---|\n| e | f |"), /<th>a \| b<\/th><th><code>c \| d<\/code><\/th>/);
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
  for (const unit of ["*", "**a ", "`", "[", "[a](", "> ", "_a", "- ", "|", "http://", "\\", "\\(", "\\[", "\\[\n", "$", "$$", "$a^", "$$\n", "```\n", "  - a\n", "1. "]) {
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
  assert.deepEqual(seen.tools, [{ index: 0, id: "t", name: "n", arguments: "{}" }]);
});

test("a tool call is the one of its index, which may have gaps, across a snapshot", async () => {
  const calls = (events) => page.evaluate(async (events) => {
    const { Answer } = await import("/assets/answer.js");
    const answer = new Answer();
    events.forEach(([name, data], i) => answer.apply(name, `1-${i}`, data));
    return answer.toolCalls;
  }, events);
  const piece = (index, more) => ["tool_call", { index, ...more }];
  const snapshot = (...tool_calls) => ["snapshot", { text: "", tool_calls }];
  assert.deepEqual(await calls([
    piece(1, { id: "a", name: "n", arguments: '{"a"' }),
    snapshot({ index: 1, id: "a", name: "n", arguments: '{"a"' }),
    piece(1, { arguments: ":1}" }),
  ]), [{ index: 1, id: "a", name: "n", arguments: '{"a":1}' }]);
  // A reader that begins with the snapshot; calls that come out of order.
  assert.deepEqual(await calls([
    snapshot({ index: 7, id: "b", name: "n", arguments: "{" }),
    piece(3, { id: "a", name: "n", arguments: "[" }),
    piece(7, { arguments: "}" }),
    piece(1_000_000_000, { id: "c", name: "n", arguments: "" }),
    piece(3, { arguments: "]" }),
  ]), [
    { index: 3, id: "a", name: "n", arguments: "[]" },
    { index: 7, id: "b", name: "n", arguments: "{}" },
    { index: 1_000_000_000, id: "c", name: "n", arguments: "" },
  ]);
});
