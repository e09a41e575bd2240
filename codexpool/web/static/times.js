// Times in the reader's own zone, which say by themselves how long ago they are; the exact one is in each element.

import { make, put, set } from "./nodes.js";
import { span } from "./words.js";

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const minute = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

let ahead = 0; // Seconds that the proxy's clock is ahead of this browser's.
const shown = new WeakMap(); // The time and the form of each element.
const said = new WeakMap(); // What `sentence` has put into each.

/** Unix seconds, by the proxy's clock. */
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

/** A time, given in unix seconds; `form` is one of FORMS. */
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

/** Let the times that are shown go on. */
export function tick() {
  for (const made of document.getElementsByTagName("time")) {
    const { at, form } = shown.get(made);
    put(made, FORMS[form](at));
  }
}

/** Put one after the other: texts, times ([at, form]), commands ({command}), and facts ({fact}) that break as a whole. */
export function sentence(where, ...content) {
  const words = JSON.stringify(content);
  if (said.get(where) === words) return;
  said.set(where, words);
  const shownAs = (part) => {
    if (Array.isArray(part)) return time(...part);
    if (part.command) return make("code", "", part.command);
    return part.fact ? make("bdi", "fact", part.fact) : part;
  };
  where.replaceChildren(...content.map(shownAs));
  where.hidden = !content.length;
}

/** Facts for `sentence`, with a dot between them; those that are empty are left out. */
export const facts = (...all) => all.filter(Boolean).flatMap((fact, index) => [...(index ? [" · "] : []), { fact }]);
