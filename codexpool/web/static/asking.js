// Questions to the proxy, and the time between them.

import { visible } from "./words.js";

/** Why there is no document; `status` is 0 where the proxy did not answer at all. */
export class Trouble extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The document that the proxy has at a path. Its texts hold no sign that cannot be seen. */
export async function ask(path, { seconds = 10, control = new AbortController() } = {}) {
  const patience = setTimeout(() => control.abort(), seconds * 1000);
  try {
    const headers = { accept: "application/json" };
    const answer = await fetch(path, { cache: "no-store", signal: control.signal, headers });
    const found = parsed(await answer.text());
    if (answer.ok && found) return found;
    throw new Trouble(found?.error?.message ?? `something answers ${answer.status} in its place`, answer.status);
  } catch (error) {
    throw error instanceof Trouble ? error : new Trouble("", 0);
  } finally {
    clearTimeout(patience);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text, (_, value) => seen(value));
  } catch {
    return null;
  }
}

/** A value without signs that cannot be seen, neither in it nor in the names of what it holds. */
function seen(value) {
  if (typeof value === "string") return visible(value);
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [visible(key), one]));
}

const waiting = new Set();

/** Wait so many seconds, or until `wake`. */
export function pause(seconds) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      waiting.delete(done);
      resolve();
    };
    const timer = setTimeout(done, seconds * 1000);
    waiting.add(done);
  });
}

/** Something has changed that those who wait should look at. */
export const wake = () => [...waiting].forEach((done) => done());

/** Wait at least so many seconds, whatever happens. */
export const rest = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
