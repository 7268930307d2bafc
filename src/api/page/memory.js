// What the page remembers: in this tab, and in this browser.
//
// Storage may be full, or forbidden; the page works without it, and forgets.

/** Another page of this origin may be a rill too, under another path. */
const place = new URL("..", import.meta.url).pathname;
const here = (key) => (place === "/" ? key : `${place} ${key}`);

function memory(name) {
  return {
    read(key) {
      try {
        return JSON.parse(window[name].getItem(here(key)));
      } catch {
        return null;
      }
    },
    write(key, value) {
      try {
        window[name].setItem(here(key), JSON.stringify(value));
      } catch {
        // Nothing depends on it but convenience.
      }
    },
  };
}

export const tab = memory("sessionStorage");
export const browser = memory("localStorage");
