// Announcements for screen readers: few, and one at a time.

import { node, put } from "./nodes.js";

const QUIET = 10; // Least seconds between two announcements.
const last = { at: 0, timer: 0, words: () => "" };

/** Announce something: at once after a quiet time, otherwise later, and then only the latest. */
export function announce(words) {
  last.words = words;
  if (last.timer) return;
  const left = Math.max(0, last.at + QUIET * 1000 - Date.now());
  last.timer = setTimeout(() => {
    last.timer = 0;
    last.at = Date.now();
    put(node("announcement"), last.words());
  }, left);
}
