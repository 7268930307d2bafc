// Markdown inside a block: code, bold, italics, links. See markdown.js for what is promised.
//
// A backslash before any punctuation is taken away, as CommonMark has it, but in code and in
// formulas.
//
// Every construct is bounded in length, so that a line of a million asterisks costs a bounded
// amount for each of them.

import * as math from "./math.js";

const TOKEN = new RegExp(
  [
    `(?<formula>${math.INLINE})`,
    String.raw`\\(?<escaped>[!-/:-@[-${"`"}{-~])`,
    String.raw`(?<ticks>${"`"}{1,8})(?<code>[^\n]{1,1000}?)(?<!${"`"})\k<ticks>(?!${"`"})`,
    String.raw`\*\*(?<bold>(?=\S)[^\n]{1,500}?(?<=\S))\*\*`,
    String.raw`(?<!\w)__(?<bold2>(?=\S)[^\n]{1,500}?(?<=\S))__(?!\w)`,
    String.raw`\*(?<italic>(?=[^\s*])[^\n*]{1,500}?(?<=\S))\*`,
    String.raw`(?<!\w)_(?<italic2>(?=[^\s_])[^\n_]{1,500}?(?<=\S))_(?!\w)`,
    String.raw`!?\[(?<label>[^\n\]]{1,500})\]\((?<href>[^\s()]{1,2000})\)`,
    String.raw`(?<![\w/])(?<bare>https?://[^\s<>"'${"`"}\\]{1,2000})`,
    String.raw`(?<line>\n)`,
  ].join("|"),
  "g",
);
const DEEPEST = 4;

/** Appends `text` to `parent`; gives `parent` back. */
export function inline(parent, text, depth = 0) {
  let at = 0;
  for (const match of text.matchAll(TOKEN)) {
    if (match.index > at) parent.append(text.slice(at, match.index));
    at = match.index + match[0].length;
    const g = match.groups;
    if (g.formula !== undefined) verbatim(parent, g.formula);
    else if (g.escaped !== undefined) parent.append(g.escaped);
    else if (g.code !== undefined) parent.append(leaf("code", g.code.replace(/^ (.*\S.*) $/, "$1")));
    else if (g.bold ?? g.bold2) parent.append(branch("strong", g.bold ?? g.bold2, depth));
    else if (g.italic ?? g.italic2) parent.append(branch("em", g.italic ?? g.italic2, depth));
    else if (g.label !== undefined) parent.append(link(g.href, g.label, match[0], depth));
    else if (g.bare !== undefined) {
      const address = g.bare.replace(/[.,;:!?)\]*_]+$/, "");
      parent.append(link(address, null, address, depth), g.bare.slice(address.length));
    } else parent.append(document.createElement("br"));
  }
  if (at < text.length) parent.append(text.slice(at));
  return parent;
}

/** Appends `text` as it is, in its lines; gives `parent` back. */
export function verbatim(parent, text) {
  text.split("\n").forEach((line, i) => parent.append(...(i ? [document.createElement("br"), line] : [line])));
  return parent;
}

function leaf(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function branch(tag, text, depth) {
  if (depth >= DEEPEST) return leaf(tag, text);
  return inline(document.createElement(tag), text, depth + 1);
}

/** A link to http or https, and nothing else; otherwise the text as it was written. */
function link(href, label, source, depth) {
  let url;
  try {
    url = new URL(href);
  } catch {
    return document.createTextNode(source);
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") return document.createTextNode(source);
  // A label that holds a link would put a link into a link.
  const made = label && !/https?:|\]\(/.test(label) ? branch("a", label, depth) : leaf("a", label ?? href);
  made.href = url.href;
  made.rel = "noopener noreferrer";
  made.target = "_blank";
  return made;
}
