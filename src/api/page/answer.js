// One answer, as far as a reader has it.
//
// The rules are the whole protocol of a reader: `started` and `snapshot` replace what there
// was, `delta`, `reasoning` and `tool_call` append, `done`, `failed` and `cancelled` end.
// Events with other names are ignored, so that a newer server can add some.

const TERMINAL = new Set(["done", "failed", "cancelled"]);

export class Answer {
  text = "";
  reasoning = "";
  /** [{index, id, name, arguments}], by index, which may have gaps. */
  toolCalls = [];
  model = null;
  attempt = 0;
  /** The ID of the newest event applied, `<attempt>-<seq>`: the cursor to resume with. */
  last = null;
  /** How many events were applied, replayed ones included. */
  events = 0;
  /** Rises with each reset, so that a view knows when appending is not enough. */
  resets = 0;
  /** {attempt, code, retry_in_ms} while the next attempt is awaited. */
  retrying = null;
  /** {name, ...data} of the terminal event. */
  end = null;

  /** Applies one event; tells whether it changed anything. */
  apply(name, id, data) {
    const reset = name === "started" || name === "snapshot";
    // A reset is right whatever its ID is. Anything else at or below the cursor was applied
    // already, by an earlier connection.
    if (!reset && this.last !== null && compareIds(id, this.last) <= 0) return false;
    switch (name) {
      case "started":
        this.#replace("", "", []);
        this.attempt = data.attempt;
        this.model = data.model ?? null;
        break;
      case "snapshot":
        this.#replace(data.text ?? "", data.reasoning ?? "", data.tool_calls ?? []);
        this.attempt = Number(id.split("-")[0]);
        break;
      case "delta":
        this.text += data.text;
        break;
      case "reasoning":
        this.reasoning += data.text;
        break;
      case "tool_call":
        this.#appendToolCall(data);
        break;
      case "retrying":
        this.retrying = data;
        break;
      default:
        if (!TERMINAL.has(name)) return false;
        this.end = { name, ...data };
    }
    this.last = id;
    this.events += 1;
    return true;
  }

  #replace(text, reasoning, toolCalls) {
    this.text = text;
    this.reasoning = reasoning;
    this.toolCalls = toolCalls.map((call, at) => ({ index: call.index ?? at, ...plainToolCall(call) }));
    this.retrying = null;
    this.resets += 1;
  }

  #appendToolCall({ index, id, name, arguments: part }) {
    let call = this.toolCalls.find((known) => known.index === index);
    if (!call) {
      call = { index, id: "", name: "", arguments: "" };
      this.toolCalls.push(call);
      this.toolCalls.sort((a, b) => a.index - b.index);
    }
    if (id) call.id = id;
    if (name) call.name = name;
    call.arguments += part ?? "";
  }
}

/** A stored tool call, whether flat or in OpenAI's nested form. */
export function plainToolCall(call) {
  const inner = call.function ?? call;
  return { id: call.id ?? "", name: inner.name ?? "", arguments: inner.arguments ?? "" };
}

/** Below, at or above zero, as for sort(). */
export function compareIds(a, b) {
  const [attemptA, seqA] = a.split("-").map(Number);
  const [attemptB, seqB] = b.split("-").map(Number);
  return attemptA - attemptB || seqA - seqB;
}
