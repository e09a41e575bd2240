// The list of events, live. Rows do not move while they are being read or used.

import { ApiError, ask, pause, rest } from "./api.js";
import { isFiltered, isShown, onFilter } from "./filters.js";
import { make, node, putOrHide, put, set } from "./nodes.js";
import { isLive } from "./notices.js";
import { flowLink, requestsChanged } from "./requests.js";
import { sign, toneOfStatus } from "./signs.js";
import { announce } from "./announcements.js";
import { now, time } from "./times.js";
import { count, short } from "./words.js";

const KEPT = 200; // Rows shown, and events waiting to be shown.
const FETCHED = 500; // Events of one answer.
const ELSEWHERE = new Set(["request", "socket"]); // Events that are rows of the list of requests.
const HELD = 20; // Seconds that the proxy may hold a request until there is an event,
const PATIENCE = 30; // and that the page waits for its answer.
const BETWEEN = 0.5; // Least seconds between two requests.
const TRIES = [1, 2, 4, 8]; // Seconds before each retry.
const STILL = 2; // Seconds that rows stay in place after a pointer has moved over them.

const feed = { after: null, run: "", isPaused: false, touchedAt: 0, control: null, trouble: "" };
const pending = []; // Oldest first.
const known = new Set(); // The keys of pending and shown events.
const news = { count: 0, latest: null, grave: null }; // Not yet announced to screen readers.
const shown = new WeakMap(); // The event of each row.
const isWanted = (event) => event.event === "gap" || isShown(event);
const keyOf = (event) => `${event.number} ${event.time}`;

/** Note which run of the proxy to follow, from a status document: each run numbers its events from 1. */
export function follow({ proxy, events_last: last }) {
  const run = `${proxy.pid} ${proxy.started_at}`;
  if (feed.after === null) feed.after = Math.max(0, last - FETCHED);
  else if (feed.run && feed.run !== run) startOver(proxy.started_at);
  feed.run = run;
}

/** Fetch events for as long as the page is open. */
export async function followEvents() {
  let isFirst = true;
  let tries = 0;
  for (;;) {
    if (document.hidden || feed.after === null || !isLive()) {
      await pause(60);
      continue;
    }
    const { after } = feed;
    feed.control = new AbortController();
    try {
      const wait = isFirst ? 0 : HELD;
      const path = `/api/events?after=${after}&wait=${wait}&limit=${FETCHED}`;
      const found = await ask(path, { seconds: PATIENCE, control: feed.control });
      if (feed.after !== after) continue; // Another run began meanwhile.
      tries = 0;
      feed.trouble = "";
      if (found.last < after) startOver();
      else hear(found, isFirst);
      isFirst = false;
      await rest(BETWEEN);
    } catch (error) {
      if (!(error instanceof ApiError)) console.error(error);
      if (feed.after !== after) continue;
      feed.trouble = error.status ? `not available: ${short(error.message, 100)}` : "";
      flush();
      await pause(TRIES[Math.min(tries++, TRIES.length - 1)]);
    }
  }
}

function hear({ events, last, lost }, isFirst) {
  if (lost && !isFirst) gap("Some events are missing: the proxy keeps only the latest.");
  feed.after = events.length ? events.at(-1).number : last;
  const fresh = take(events);
  if (!isFirst && !feed.isPaused) mention(fresh);
  flush();
}

/** Start over with the first event of a new run. Its events that arrived before the run was noticed go above the gap. */
function startOver(startedAt = Infinity) {
  Object.assign(feed, { after: 0, run: "" });
  feed.control?.abort();
  const isNew = (key) => Date.parse(key.split(" ")[1]) >= Math.floor(startedAt * 1000);
  for (const key of known) if (isNew(key)) known.delete(key);
  for (const made of [...node("events-list").children]) if (isNew(made.dataset.key)) made.remove();
  pending.splice(0, pending.length, ...pending.filter((event) => !isNew(keyOf(event))));
  gap("The proxy was restarted. Older events have no details.");
  flush();
  requestsChanged();
}

/** Add a row in place of missing events. */
function gap(text) {
  const at = new Date(now() * 1000).toISOString();
  take([{ number: 0, time: `${at} ${text}`, at: now(), event: "gap", flow: null, text }]);
}

function take(events) {
  if (events.some((event) => event.flow)) requestsChanged();
  const fresh = events.filter((event) => !ELSEWHERE.has(event.event) && !known.has(keyOf(event)));
  for (const event of fresh) known.add(keyOf(event));
  pending.push(...fresh);
  for (const event of pending.splice(0, pending.length - KEPT)) known.delete(keyOf(event));
  return fresh;
}

const isHeld = () =>
  feed.isPaused ||
  node("events-panel").scrollTop > 4 ||
  Date.now() - feed.touchedAt < STILL * 1000 ||
  node("events-list").contains(document.activeElement);

/** Show pending events, or their number while the rows must stay in place. */
export function flush(isAsked = false) {
  const list = node("events-list");
  if (pending.length && (isAsked || !isHeld())) {
    list.prepend(...pending.splice(0).map(create).reverse());
    while (list.childElementCount > KEPT) {
      known.delete(list.lastElementChild.dataset.key);
      list.lastElementChild.remove();
    }
  }
  node("held").hidden = !pending.length;
  put(node("held-show"), `Show ${count(pending.length, "new event")}`);
  const kept = [...list.children].filter((made) => !made.hidden).length;
  put(node("events-none"), isFiltered() ? "No event fits the filter." : "Nothing has happened yet.");
  node("events-none").hidden = kept > 0 || pending.length > 0;
  putOrHide(node("events-count"), feed.trouble || (feed.isPaused ? "paused" : kept ? `the latest ${kept}` : ""));
}

function create(event) {
  const at = event.at ?? Date.parse(event.time) / 1000;
  const [tone, kind] = toneOf(event);
  const content = [
    time(Number.isFinite(at) ? at : now(), "clock"),
    make("span", "kind", sign(kind), short(event.event, 16)),
    make("bdi", "words", short(event.text, 400)),
  ];
  const inside = make(event.flow ? "a" : "div", "event", ...content);
  if (event.flow) inside.href = flowLink(event.flow);
  const made = make("li", "", inside);
  made.dataset.tone = tone;
  made.dataset.key = keyOf(event);
  shown.set(made, event);
  made.hidden = !isWanted(event);
  return made;
}

function toneOf(event) {
  switch (event.event) {
    case "gap":
      return ["warn", "none"];
    case "identity":
      return toneOfStatus(event.becomes);
    case "breaker":
      return event.becomes === "closed" ? ["good", "good"] : ["bad", "bad"];
    case "move":
      return ["warn", "note"];
    case "turn": // The outcome is only in the text.
      return event.text.endsWith(": completed") ? ["good", "good"] : ["warn", event.text.includes(": failed") ? "bad" : "note"];
    default:
      return ["idle", "note"];
  }
}

/** Announce the number of new events and the latest one; events of identities and of the breaker take precedence. */
function mention(fresh) {
  if (!fresh.length) return;
  news.count += fresh.length;
  news.latest = fresh.at(-1);
  news.grave = fresh.findLast((event) => event.event === "identity" || event.event === "breaker") ?? news.grave;
  announce(() => {
    const { event, text } = news.grave ?? news.latest;
    const words = `${count(news.count, "new event")}. ${event}: ${short(text, 160)}`;
    Object.assign(news, { count: 0, grave: null });
    return words;
  });
}

/** Set up the controls of the list. */
export function listenToEvents() {
  onFilter(() => {
    for (const made of node("events-list").children) made.hidden = !isWanted(shown.get(made));
    flush();
  });
  const panel = node("events-panel");
  panel.addEventListener("pointermove", () => {
    feed.touchedAt = Date.now();
  });
  panel.addEventListener("pointerleave", () => {
    feed.touchedAt = 0;
    flush();
  });
  panel.addEventListener("scroll", () => flush(), { passive: true });
  panel.addEventListener("focusout", () => setTimeout(flush));
  node("pause").addEventListener("click", () => {
    feed.isPaused = !feed.isPaused;
    set(node("pause"), "aria-pressed", feed.isPaused);
    flush();
  });
  node("held-show").addEventListener("click", () => {
    flush(true);
    panel.scrollTop = 0;
    (node("events-list").querySelector("a") ?? node("pause")).focus({ preventScroll: true });
  });
}
