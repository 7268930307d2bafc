// Markdown to DOM, for text that grows.
//
// Model output is hostile until proven otherwise: every character goes in as a text node, and
// a link's address only when it is http or https. There is no HTML anywhere.
//
// Blocks are found line by line, so text that is appended can only change the last one.
// `Markdown` keeps the finished blocks' elements, and parses again only from the last block's
// start: a long answer costs no more for each event than a short one.

import { inline, verbatim } from "./inline.js";
import * as math from "./math.js";

const DEEPEST = 6;
/** Lines; one that is not closed must not swallow the rest of the answer. */
const LONGEST_FORMULA = 50;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)(.*)$/;
const TABLE_RULE = /^ {0,3}\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;

export class Markdown {
  #root;
  /** The text from the last block's start on. */
  #tail = "";
  #stable = 0;
  #heading = 2;

  constructor(root) {
    this.#root = root;
  }

  replace(text) {
    this.#tail = "";
    this.#stable = 0;
    this.#heading = 2;
    this.append(text);
  }

  append(text) {
    this.#tail += text;
    const blocks = split(this.#tail);
    while (this.#root.childNodes.length > this.#stable) this.#root.lastChild.remove();
    // A block is finished when another one follows, and that one's first line is whole:
    // half a line may yet turn out to belong to the block before it.
    let finished = blocks.length - 1;
    if (finished > 0 && !this.#tail.slice(blocks[finished].start).includes("\n")) finished -= 1;
    let levels = { last: this.#heading };
    blocks.forEach((block, i) => {
      this.#root.append(element(block, levels, 0));
      if (i === finished - 1) this.#heading = levels.last;
    });
    if (finished > 0) {
      this.#stable += finished;
      this.#tail = this.#tail.slice(blocks[finished].start);
    }
  }
}

/** [{type, start, lines, …}], where `start` is an offset in the text. */
function split(text) {
  const lines = [];
  for (let at = 0; at <= text.length; ) {
    let end = text.indexOf("\n", at);
    if (end < 0) end = text.length;
    lines.push({ at, text: text.slice(at, end) });
    at = end + 1;
  }
  const blocks = [];
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].text.trim()) {
      i += 1;
      continue;
    }
    const [block, next] = take(lines, i);
    blocks.push({ ...block, start: lines[i].at });
    i = next;
  }
  return blocks;
}

/** The block that starts at line `i`, and the line after it. */
function take(lines, i) {
  const line = lines[i].text;
  let match = line.match(FENCE);
  if (match) return takeFence(lines, i, match);
  if (math.endOf(line)) return takeFormula(lines, i);
  if ((match = line.match(HEADING))) {
    return [{ type: "heading", level: match[1].length, text: match[2].replace(/[ \t]#+[ \t]*$/, "") }, i + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, i + 1];
  if (QUOTE.test(line)) {
    const inner = [];
    for (; i < lines.length && (match = lines[i].text.match(QUOTE)); i += 1) inner.push(match[1]);
    return [{ type: "quote", text: inner.join("\n") }, i];
  }
  if ((match = line.match(ITEM))) return takeList(lines, i, match);
  if (line.includes("|") && i + 1 < lines.length && lines[i + 1].text.includes("|") && TABLE_RULE.test(lines[i + 1].text)) {
    const rows = [cells(line)];
    for (i += 2; i < lines.length && lines[i].text.includes("|"); i += 1) rows.push(cells(lines[i].text));
    return [{ type: "table", rows }, i];
  }
  const inner = [line];
  for (i += 1; i < lines.length && !interrupts(lines[i].text); i += 1) inner.push(lines[i].text);
  return [{ type: "paragraph", text: inner.join("\n") }, i];
}

function takeFence(lines, i, [, fence, info]) {
  const inner = [];
  const closes = (text) => {
    const trimmed = text.trim();
    return trimmed.length >= fence.length && trimmed.replaceAll(fence[0], "") === "";
  };
  for (i += 1; i < lines.length && !closes(lines[i].text); i += 1) inner.push(lines[i].text);
  return [{ type: "code", language: info.trim().split(/\s/)[0], text: inner.join("\n") }, i + 1];
}

/** Up to its end, or to that of the text: a formula that grows looks the same as one that came whole. */
function takeFormula(lines, i) {
  const end = math.endOf(lines[i].text);
  const inner = [lines[i].text];
  for (i += 1; i < lines.length && inner.length < LONGEST_FORMULA; i += 1) {
    inner.push(lines[i].text);
    if (lines[i].text.trim() === end) return [{ type: "formula", text: inner.join("\n") }, i + 1];
  }
  return [{ type: "formula", text: inner.join("\n") }, i];
}

/** Items of one list: what is indented below an item belongs to it, blank lines included. */
function takeList(lines, i, first) {
  const ordered = first[2].length > 1;
  const base = first[1].length;
  const items = [];
  for (; i < lines.length; i += 1) {
    const { text } = lines[i];
    const match = text.match(ITEM);
    const indent = text.search(/[^ ]/);
    if (match && indent < base + 2 && !RULE.test(text)) {
      if (match[2].length > 1 !== ordered || indent < base) break;
      items.push([match[4]]);
    } else if (indent < 0) {
      const next = lines.slice(i + 1, i + 3).find((l) => l.text.trim());
      if (!next || (next.text.search(/[^ ]/) < base + 2 && !ITEM.test(next.text))) break;
      items.at(-1).push("");
    } else if (indent >= base + 2 || (!interrupts(text) && items.at(-1).at(-1) !== "")) {
      items.at(-1).push(text.slice(Math.min(indent, base + (ordered ? 3 : 2))));
    } else break;
  }
  const number = ordered ? Number.parseInt(first[2], 10) : 1;
  return [{ type: "list", ordered, number, items: items.map((item) => item.join("\n")) }, i];
}

function interrupts(text) {
  return !text.trim() || math.endOf(text) || FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text) || /^ {0,3}(?:[-*+]|1[.)]) +\S/.test(text);
}

function cells(line) {
  const row = line.trim().replace(/^\||(?<!\\)\|$/g, "");
  // A bar that is escaped belongs to its cell, in code as well.
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function element(block, levels, depth) {
  switch (block.type) {
    case "heading": {
      // Below the page's own headings, and never skipping a level, for those who navigate by them.
      levels.last = Math.min(2 + block.level, levels.last + 1, 6);
      return inline(make(`h${levels.last}`), block.text);
    }
    case "rule":
      return make("hr");
    case "code": {
      const pre = make("pre");
      pre.tabIndex = 0; // scrolls sideways, also by keyboard
      if (block.language) pre.dataset.language = block.language.slice(0, 30);
      const code = make("code");
      code.textContent = block.text;
      pre.append(code);
      return pre;
    }
    case "formula":
      return verbatim(make("p"), block.text);
    case "quote":
      return nested(make("blockquote"), block.text, levels, depth);
    case "list": {
      const list = make(block.ordered ? "ol" : "ul");
      if (block.ordered && block.number !== 1) list.start = block.number;
      for (const item of block.items) list.append(nested(make("li"), item, levels, depth));
      return list;
    }
    case "table":
      return table(block.rows);
    default:
      return inline(make("p"), block.text);
  }
}

function nested(parent, text, levels, depth) {
  if (depth >= DEEPEST) return inline(parent, text);
  const blocks = split(text);
  // One line of text needs no paragraph of its own.
  if (blocks[0]?.type === "paragraph") inline(parent, blocks.shift().text);
  for (const block of blocks) parent.append(element(block, levels, depth + 1));
  return parent;
}

function table([head, ...rows]) {
  const scroll = make("div");
  scroll.className = "table";
  scroll.tabIndex = 0;
  const grid = scroll.appendChild(make("table"));
  const top = grid.appendChild(make("thead")).appendChild(make("tr"));
  for (const cell of head) inline(top.appendChild(make("th")), cell);
  const body = grid.appendChild(make("tbody"));
  for (const row of rows) {
    const line = body.appendChild(make("tr"));
    head.forEach((_, i) => inline(line.appendChild(make("td")), row[i] ?? ""));
  }
  return scroll;
}

const make = (tag) => document.createElement(tag);
