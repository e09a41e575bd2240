// What a screen reader is told of its own accord: little, and never two things at once.

import { node, put } from "./nodes.js";

const QUIET = 10; // Seconds between two things that are said.
const told = { at: 0, timer: 0, words: () => "" };

/** Have something said: at once if nothing was said for a while, else later, and then only the latest. */
export function tell(words) {
  told.words = words;
  if (told.timer) return;
  const left = Math.max(0, told.at + QUIET * 1000 - Date.now());
  told.timer = setTimeout(() => {
    told.timer = 0;
    told.at = Date.now();
    put(node("said"), told.words());
  }, left);
}
