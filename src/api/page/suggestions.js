// Things to try, on the empty page.

import { make } from "./message.js";

const FOR_A_MODEL = [
  ["Long enough to reload in", "Tell me the story of a river, from its source to the sea, in about 800 words."],
  ["With some Markdown in it", "Explain how a river forms a delta, with headings, a list and a table."],
];
// What stands in brackets directs the simulator: speed, length and failures. It fails for the first
// calls of a prompt only, so each gets a seed of its own.
const FOR_THE_SIMULATOR = [
  ["Long and slow, to reload in", "Tell me about rivers. [[tokens=400]] [[rate=25]]"],
  ["Reasoning first, then the answer", "Think before you answer. [[reasoning=60]] [[tokens=150]] [[rate=30]]"],
  ["The model's connection breaks once", "Try again when it breaks. [[tokens=120]] [[rate=25]] [[cut=40*1]]"],
];

/** Fills `list` with what suits the model; `pick(prompt)` is called for the one that is chosen. */
export function suggest(list, model, pick) {
  const simulated = /simulat/i.test(`${model?.upstream} ${model?.id}`);
  list.replaceChildren(
    ...(simulated ? FOR_THE_SIMULATOR : FOR_A_MODEL).map(([text, prompt]) => {
      const button = make("button", "suggestion");
      button.type = "button";
      button.append(make("span", "", text), make("small", "", prompt));
      button.addEventListener("click", () => pick(simulated ? `${prompt} [[seed=${Math.floor(Math.random() * 1e6)}]]` : prompt));
      const item = make("li");
      item.append(button);
      return item;
    }),
  );
}
