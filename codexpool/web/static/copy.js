// Commands that can be copied: a button beside each.

import { announce } from "./announcements.js";
import { make, put } from "./nodes.js";

const SHOWN = 2; // Seconds for which a button says what came of it.

/** Make a command with a button that copies it. */
export function command(text) {
  const button = make("button", "copy", "Copy");
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${text}`);
  button.addEventListener("click", () => copy(button));
  return make("span", "command", make("code", "", text), button);
}

async function copy(button) {
  const words = (await hasCopied(button.previousElementSibling)) ? "Copied" : "Press Ctrl+C";
  put(button, words);
  announce(() => words);
  setTimeout(() => put(button, "Copy"), SHOWN * 1000);
}

/** Copy the text of an element. The clipboard API needs https or localhost, which this site is not; selecting works. */
async function hasCopied(where) {
  try {
    await navigator.clipboard.writeText(where.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(where);
    return document.execCommand("copy");
  }
}
