// Signs and tones. Each sign is shown with a word: colour alone carries no meaning.

import { drawn, set } from "./nodes.js";

/** Tone and sign of each status of an identity. */
export const STATUSES = {
  needs_replacement: ["bad", "bad"],
  needs_login: ["bad", "bad"],
  conflict: ["bad", "bad"],
  suspect: ["warn", "ask"],
  limited: ["warn", "wait"],
  resting: ["warn", "wait"],
  paused: ["idle", "pause"],
  unverified: ["note", "ask"],
  ready: ["good", "good"],
};
export const NEEDING = new Set(["needs_replacement", "needs_login", "conflict"]);

/** Return whether an identity waits for a person. One that is not verified has needs if its token cannot be read. */
export const needsYou = (one) => NEEDING.has(one.status) || (one.status === "unverified" && Boolean(one.needs));
export const RETURNING = new Set(["limited", "resting"]);
export const KINDS = { pat: "PAT", oauth: "login", command: "command", agent: "agent" };

export const toneOfStatus = (word) => STATUSES[word] ?? ["idle", "ask"];

/** Return the tone and the sign of an HTTP status; 0 is a lost connection. */
export function toneOfAnswer(status) {
  if (status === null) return ["idle", "wait"];
  return status === 0 || status >= 500 ? ["bad", "bad"] : status >= 400 ? ["warn", "bad"] : ["good", "good"];
}

export function sign(kind) {
  const made = drawn("svg", { class: "sign", "aria-hidden": "true", focusable: "false" });
  made.append(drawn("use", { href: `#sign-${kind}` }));
  return made;
}

export function resign(made, kind) {
  set(made.firstElementChild, "href", `#sign-${kind}`);
}
