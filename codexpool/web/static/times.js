// Times in the reader's time zone, absolute and relative; each element also has the exact time.

import { command } from "./copy.js";
import { make, put, set } from "./nodes.js";
import { span } from "./words.js";

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const minute = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

let ahead = 0; // Seconds by which the proxy's clock is ahead of this browser's.
const shown = new WeakMap(); // Time and format of each element.
const contents = new WeakMap(); // The content that `sentence` gave each element.

/** Return the time of the proxy's clock in unix seconds. */
export const now = () => Date.now() / 1000 + ahead;

export function setClock(at) {
  ahead = at - Date.now() / 1000;
}

export const minuteOf = (at) => minute.format(at * 1000);

const dayOf = (at) => (date.format(at * 1000) === date.format(now() * 1000) ? "" : `${date.format(at * 1000)}, `);

function relative(at) {
  const seconds = at - now();
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `in ${span(seconds)}` : `${span(-seconds)} ago`;
}

const FORMS = {
  clock: (at) => dayOf(at) + clock.format(at * 1000),
  minute: (at) => dayOf(at) + minuteOf(at),
  relative,
  both: (at) => `${dayOf(at)}${minuteOf(at)} (${relative(at)})`,
};

/** Create an element for a time in unix seconds; `form` is one of FORMS. */
export function time(at, form) {
  const made = make("time");
  retime(made, at, form);
  return made;
}

export function retime(made, at, form) {
  shown.set(made, { at, form });
  const exact = new Date(at * 1000).toISOString();
  set(made, "datetime", exact);
  set(made, "title", exact);
  put(made, FORMS[form](at));
}

/** Update all times on the page. */
export function tick() {
  for (const made of document.getElementsByTagName("time")) {
    const { at, form } = shown.get(made);
    put(made, FORMS[form](at));
  }
}

/** Fill an element with texts, times ([at, form]), commands ({command}), and facts ({fact}), which break as a whole. */
export function sentence(where, ...content) {
  const words = JSON.stringify(content);
  if (contents.get(where) === words) return;
  contents.set(where, words);
  const shownAs = (part) => {
    if (Array.isArray(part)) return time(...part);
    if (part.command) return command(part.command);
    return part.fact ? make("bdi", "fact", part.fact) : part;
  };
  where.replaceChildren(...content.map(shownAs));
  where.hidden = !content.length;
}

/** Return facts for `sentence` with dots between them; empty ones are left out. */
export const facts = (...all) => all.filter(Boolean).flatMap((fact, index) => [...(index ? [" · "] : []), { fact }]);
