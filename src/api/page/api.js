// Calls to the API. Every failure is an `ApiError` with a text that can be shown.

/** `status` is 0 when there was no answer at all. */
export class ApiError extends Error {
  constructor(status, code, message, requestId = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }

  /** The outcome is unknown, or the server asks to come back: the same request may be sent again. */
  get again() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }

  toString() {
    return `${this.message} (${this.code})`;
  }
}

/** Where the API is: a proxy may serve it under a path of its own. */
const root = new URL("..", import.meta.url).pathname.replace(/\/$/, "");

async function call(method, path, { body, headers = {}, timeout = 30_000 } = {}) {
  let response;
  try {
    response = await fetch(root + path, {
      method,
      headers: body === undefined ? headers : { "content-type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(timeout),
    });
    if (response.ok) return response.status === 204 ? null : await response.json();
  } catch (error) {
    // Also a body that broke off: the status line alone is no answer.
    if (error.name === "TimeoutError") throw new ApiError(0, "timeout", "The server did not answer in time.");
    throw new ApiError(0, "unreachable", navigator.onLine ? "The server can't be reached." : "This device is offline.");
  }
  throw await problem(response);
}

async function problem(response) {
  let details = {};
  try {
    details = await response.json();
  } catch {
    // Something between us and the API answered, with a page of its own.
  }
  const fields = Array.isArray(details.errors)
    ? details.errors.map((e) => (typeof e === "string" ? e : e.detail ?? e.message)).filter(Boolean)
    : [];
  const text = [details.detail ?? details.title ?? `The server answered ${response.status}.`, ...fields].join(" ");
  return new ApiError(response.status, details.code ?? `http_${response.status}`, text, details.request_id ?? null);
}

const id = encodeURIComponent;

export const models = () => call("GET", "/v1/models").then((page) => page.items);
export const conversations = (cursor) =>
  call("GET", `/v1/conversations?limit=30${cursor ? `&cursor=${id(cursor)}` : ""}`);
export const conversation = (c) => call("GET", `/v1/conversations/${id(c)}`);
export const createConversation = (title) => call("POST", "/v1/conversations", { body: { title } });
export const renameConversation = (c, title) => call("PATCH", `/v1/conversations/${id(c)}`, { body: { title } });
export const deleteConversation = (c) => call("DELETE", `/v1/conversations/${id(c)}`);
export const task = (t) => call("GET", `/v1/tasks/${id(t)}`, { timeout: 10_000 });
export const cancel = (t) => call("POST", `/v1/tasks/${id(t)}/cancel`);
export const streamUrl = (t) => `${root}/v1/tasks/${id(t)}/stream`;

/** The same key and body again give the same message, however often they are sent. */
export const send = (c, key, body) =>
  call("POST", `/v1/conversations/${id(c)}/messages`, { body, headers: { "idempotency-key": key } });

/** All messages, oldest first. */
export async function messages(c) {
  const all = [];
  let cursor = null;
  do {
    const page = await call("GET", `/v1/conversations/${id(c)}/messages?limit=100${cursor ? `&cursor=${id(cursor)}` : ""}`);
    all.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor);
  return all;
}

/** A random UUID. `crypto.randomUUID` exists only in secure contexts; plain http on a LAN is none. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 0x0f) | 0x40;
  b[8] = (b[8] & 0x3f) | 0x80;
  const hex = Array.from(b, (n) => n.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
