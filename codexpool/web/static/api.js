// Requests to the proxy's API, and the pauses between them.

import { visible } from "./words.js";

/** The proxy sent no document; `status` is 0 if it did not answer at all. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Fetch the document at a path, with invisible characters in its texts escaped. */
export async function ask(path, { seconds = 10, control = new AbortController() } = {}) {
  const timeout = setTimeout(() => control.abort(), seconds * 1000);
  try {
    const headers = { accept: "application/json" };
    const answer = await fetch(path, { cache: "no-store", signal: control.signal, headers });
    const found = parsed(await answer.text());
    if (answer.ok && found) return found;
    throw new ApiError(found?.error?.message ?? `something else answered ${answer.status}`, answer.status);
  } catch (error) {
    throw error instanceof ApiError ? error : new ApiError("", 0);
  } finally {
    clearTimeout(timeout);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text, (_, value) => escaped(value));
  } catch {
    return null;
  }
}

/** Escape invisible characters in a value of a JSON document, and in its keys. */
function escaped(value) {
  if (typeof value === "string") return visible(value);
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [visible(key), one]));
}

const waiting = new Set();

/** Wait a number of seconds, or until `wake`. */
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

/** End all pauses: something has changed. */
export const wake = () => [...waiting].forEach((done) => done());

/** Wait a number of seconds; `wake` does not end it. */
export const rest = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
