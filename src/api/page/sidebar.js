// The list of conversations; on a narrow screen, a drawer.

import * as api from "./api.js";
import { make } from "./message.js";

export class Sidebar {
  #list = document.querySelector("#conversations");
  #older = document.querySelector("#older");
  #problem = document.querySelector("#list-problem");
  #sidebar = document.querySelector("#sidebar");
  #main = document.querySelector("#main");
  #menu = document.querySelector("#menu");
  #shade = document.querySelector("#shade");
  #narrow = matchMedia("(max-width: 52rem)");
  #items = [];
  #next = null;
  #open = null;

  constructor() {
    this.#older.addEventListener("click", () => this.#more());
    this.#menu.addEventListener("click", () => this.drawer(true));
    document.querySelector("#menu-close").addEventListener("click", () => this.drawer(false));
    this.#shade.addEventListener("click", () => this.drawer(false));
    this.#sidebar.addEventListener("click", (event) => event.target.closest("a") && this.drawer(false));
    addEventListener("keydown", (event) => event.key === "Escape" && this.#drawerOpen && this.drawer(false));
    this.#narrow.addEventListener("change", () => this.drawer(false));
    this.drawer(false);
  }

  get #drawerOpen() {
    return this.#menu.getAttribute("aria-expanded") === "true";
  }

  /** Opens or closes the drawer; where there is room the list is always there. */
  drawer(open) {
    const was = this.#drawerOpen;
    const narrow = this.#narrow.matches;
    const shown = open && narrow;
    this.#menu.setAttribute("aria-expanded", String(shown));
    this.#sidebar.inert = narrow && !open;
    this.#main.inert = shown;
    this.#shade.hidden = !shown;
    this.#sidebar.classList.toggle("open", shown);
    if (shown) document.querySelector("#menu-close").focus();
    else if (was && narrow) this.#menu.focus();
  }

  /** Fetches the newest conversations; older ones that are shown stay. */
  async refresh() {
    try {
      const page = await api.conversations();
      const fresh = new Set(page.items.map((item) => item.id));
      const last = this.#items.findIndex((item) => item.id === page.items.at(-1)?.id);
      const older = page.next_cursor && last >= 0 ? this.#items.slice(last + 1).filter((item) => !fresh.has(item.id)) : [];
      this.#items = [...page.items, ...older];
      if (!older.length) this.#next = page.next_cursor;
      this.#draw();
    } catch (error) {
      this.#say(error);
      throw error;
    }
  }

  select(id) {
    this.#open = id;
    this.#draw();
  }

  async #more() {
    try {
      const page = await api.conversations(this.#next);
      const known = new Set(this.#items.map((item) => item.id));
      this.#items.push(...page.items.filter((item) => !known.has(item.id)));
      this.#next = page.next_cursor;
      this.#draw();
    } catch (error) {
      this.#say(error);
    }
  }

  #draw() {
    this.#problem.hidden = true;
    this.#older.hidden = !this.#next;
    const shown = this.#items.map((item) => {
      const link = make("a");
      link.href = `#/c/${encodeURIComponent(item.id)}`;
      link.append(make("span", "name", item.title || "Untitled"), make("small", "", when(item.updated_at)));
      if (item.id === this.#open) link.setAttribute("aria-current", "page");
      const line = make("li");
      line.append(link);
      return line;
    });
    const focused = document.activeElement?.closest?.("#conversations a")?.getAttribute("href");
    this.#list.replaceChildren(...shown);
    if (focused) this.#list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  #say(error) {
    this.#problem.hidden = false;
    this.#problem.textContent = String(error);
  }
}

function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return today
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" });
}
