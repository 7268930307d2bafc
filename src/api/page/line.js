// The line above the message box: what really happens to the connection.

const dot = " · ";
const BETWEEN_DRAWS = 80;

export class Line {
  #element;
  #strip;
  #state;
  #details;
  #cut;
  #timer = 0;
  #follower = null;

  constructor(element, cut) {
    this.#element = element;
    this.#strip = element.querySelector(".strip");
    this.#state = element.querySelector(".state");
    this.#details = element.querySelector(".details");
    this.#cut = cut;
    cut.addEventListener("click", () => this.#follower?.state === "live" && this.#follower.cut());
  }

  /** Shows this follower, or nothing. */
  show(follower) {
    this.#follower = follower;
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      this.#draw();
    }, BETWEEN_DRAWS);
  }

  #draw() {
    const follower = this.#follower;
    this.#element.hidden = !follower;
    if (!follower) return;
    this.#element.dataset.state = stateOf(follower);
    const [state, ...details] = says(follower);
    this.#state.textContent = state;
    this.#details.textContent = details.map((detail) => dot + detail).join("");
    // Not disabled: that would take the focus away from it.
    this.#cut.setAttribute("aria-disabled", String(follower.state !== "live"));
    drawStrip(this.#strip, follower.stretches);
  }
}

/** A connection may be live while there is nothing to be read from it. */
function stateOf({ state, answer }) {
  if (state !== "live") return state;
  if (answer.retrying) return "retrying";
  return answer.last ? "live" : "waiting";
}

/** The state, then what else is known of it. */
function says(follower) {
  const { answer, tries, note } = follower;
  const at = answer.last ? `event ${answer.last}` : "no event yet";
  const count = `${answer.events} ${answer.events === 1 ? "event" : "events"}`;
  const { retrying } = answer;
  switch (stateOf(follower)) {
    case "retrying":
      return ["retrying", at, `attempt ${retrying.attempt} failed (${retrying.code}), another follows`];
    case "waiting":
      return ["waiting for a worker"];
    case "live":
      return ["live", at, count, ...(note ? [note] : [])];
    case "reconnecting":
      return [`reconnecting (attempt ${tries})`, answer.last ? `have everything up to ${at}` : at];
    case "offline":
      return ["offline", answer.last ? `have everything up to ${at}` : at];
    case "paused":
      return ["paused while this tab is hidden", at];
    case "ended":
      return ["ended", at, count];
    case "gone":
      return ["this answer was deleted"];
    default:
      return ["connecting"];
  }
}

/** A part for each stretch between two cuts, as long as it has events. */
function drawStrip(strip, stretches) {
  while (strip.childElementCount > stretches.length) strip.lastChild.remove();
  while (strip.childElementCount < stretches.length) strip.append(document.createElement("i"));
  stretches.forEach(({ events, replay }, i) => {
    strip.children[i].style.flexGrow = Math.max(events, 1);
    strip.children[i].className = replay ? "replay" : "";
  });
}

/** What to say of an answer that has ended, once the API's copy was fetched. */
export function summary(follower, identical) {
  const { answer, connections } = follower;
  const over = connections === 1 ? "one connection" : `${connections} connections`;
  return [`${answer.events} events over ${over}`, ...(follower.note ? [follower.note] : []), identical].join(dot);
}
