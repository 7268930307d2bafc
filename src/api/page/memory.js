// What the page remembers: in this tab, and in this browser.
//
// Storage may be full, or forbidden; the page works without it, and forgets.

function memory(name) {
  return {
    read(key) {
      try {
        return JSON.parse(window[name].getItem(key));
      } catch {
        return null;
      }
    },
    write(key, value) {
      try {
        window[name].setItem(key, JSON.stringify(value));
      } catch {
        // Nothing depends on it but convenience.
      }
    },
  };
}

export const tab = memory("sessionStorage");
export const browser = memory("localStorage");
