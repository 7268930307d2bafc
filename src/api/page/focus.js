// Keeps the focus on the page: what had it may be hidden, disabled or removed, by the user's
// own act or by an event, and the browser then leaves it to nobody. Those who use a keyboard or
// a screen reader would begin at the top again.

const $ = (selector) => document.querySelector(selector);

/** What has the focus, and what it was in. */
let held = [];

addEventListener("focusin", ({ target }) => {
  held = [];
  for (let e = target; e; e = e.parentElement) held.push(e);
});

addEventListener("focusout", ({ target }) => {
  // After what removes it has run.
  queueMicrotask(() => {
    // It could have kept the focus, so somebody wanted to leave it.
    if (target === held[0] && usable(target) && document.activeElement !== target) held = [];
  });
});

let waits = false;
new MutationObserver(() => {
  if (waits) return;
  waits = true;
  // The browser takes the focus away when it draws.
  requestAnimationFrame(() => setTimeout(() => {
    waits = false;
    rescue();
  }));
}).observe(document.body, { subtree: true, childList: true, attributeFilter: ["hidden", "disabled", "inert", "class"] });
matchMedia("(max-width: 52rem)").addEventListener("change", () => setTimeout(rescue, 50));

function rescue() {
  const { activeElement } = document;
  const lost = !activeElement || activeElement === document.body || !usable(activeElement);
  if (!held.length || !lost || $("dialog[open]")) return;
  if (usable(held[0])) held[0].focus({ preventScroll: true });
  else places().find(usable)?.focus({ preventScroll: true });
}

/** Where the focus may go, the nearest first. */
function places() {
  const within = (id) => held.some((e) => e.id === id);
  if (within("sidebar")) return [$("#new"), $("#menu"), $("#text")];
  if (within("scroll")) return [$("#scroll"), $("#text")];
  return [$("#text"), $("#menu-close")];
}

const usable = (e) => e.isConnected && !e.disabled && !e.closest("[inert]") && e.checkVisibility({ visibilityProperty: true });
