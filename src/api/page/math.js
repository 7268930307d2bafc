// Formulas in text: TeX between `\(…\)`, `\[…\]`, `$…$` and `$$…$$`. Nothing sets them here, so
// they are shown as they were written: their backslashes, stars and underscores are their own.

/** Sources of regular expressions, each bounded in length. */
export const INLINE = [
  String.raw`\\\([^]{1,1000}?\\\)`,
  // Where a link's address follows, the brackets were escaped so that it isn't one.
  String.raw`\\\[[^]{1,1000}?\\\](?!\()`,
  String.raw`\$\$[^]{1,1000}?\$\$`,
  // Prices have one dollar as well: a formula has what only TeX has.
  String.raw`\$(?=\S)(?=[^$\n]{0,300}(?:\\[a-zA-Z]|[\^_]))[^$\n]{1,300}(?<=\S)\$(?![\w$])`,
].join("|");

const ENDS = { "\\[": "\\]", $$: "$$" };

/** What ends the formula of several lines that this line begins, if it does. */
export const endOf = (line) => ENDS[line.trim()] ?? null;
