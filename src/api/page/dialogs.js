// Questions to the user, each a native dialog: it keeps the focus in, and Escape means no.

const $ = (selector) => document.querySelector(selector);

for (const button of document.querySelectorAll("dialog button[type=button]")) {
  button.addEventListener("click", () => button.closest("dialog").close("cancel"));
}

async function ask(dialog) {
  dialog.returnValue = "cancel";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  return dialog.returnValue === "ok";
}

/** The new title, or null. */
export async function askTitle(title) {
  const input = $("#rename-text");
  input.value = title;
  const answer = ask($("#rename-dialog"));
  input.select();
  return (await answer) ? input.value.trim() : null;
}

export const askDelete = () => ask($("#delete-dialog"));
