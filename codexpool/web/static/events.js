// What happens, as it happens. Rows stay where they are while somebody is about to read or use them.

import { Trouble, ask, pause, rest } from "./asking.js";
import { make, node, offer, put, set } from "./nodes.js";
import { isLive } from "./notices.js";
import { flowLink, requestsChanged } from "./requests.js";
import { sign, toneOfAnswer, toneOfStatus } from "./signs.js";
import { tell } from "./telling.js";
import { now, time } from "./times.js";
import { count, short } from "./words.js";

const KEPT = 200; // Rows, and events that wait to become some.
const HELD = 20; // Seconds that the proxy holds a question until there is an answer,
const PATIENCE = 30; // and that we wait for it.
const BETWEEN = 0.5; // Seconds between two questions at least.
const TRIES = [1, 2, 4, 8]; // Seconds between two questions that got no answer.
const STILL = 2; // Seconds that rows stay where they are after a pointer has moved over them.

const feed = { after: null, run: "", isPaused: false, touchedAt: 0, control: null, trouble: "" };
const pending = []; // The oldest first.
const known = new Set(); // The keys of what is pending or shown.
const news = { count: 0, latest: null, grave: null }; // What a screen reader was not told of yet.
const keyOf = (event) => `${event.number} ${event.time}`;

/** Whose events are followed, by a status document: a proxy that was started anew counts anew. */
export function follow({ proxy, events_last: last }) {
  const run = `${proxy.pid} ${proxy.started_at}`;
  if (feed.after === null) feed.after = Math.max(0, last - KEPT);
  else if (feed.run && feed.run !== run) startOver(proxy.started_at);
  feed.run = run;
}

/** Follow them for good. */
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
      const path = `/api/events?after=${after}&wait=${wait}&limit=${KEPT}`;
      const found = await ask(path, { seconds: PATIENCE, control: feed.control });
      if (feed.after !== after) continue; // It was begun anew meanwhile.
      tries = 0;
      feed.trouble = "";
      if (found.last < after) startOver();
      else hear(found, isFirst);
      isFirst = false;
      await rest(BETWEEN);
    } catch (error) {
      if (!(error instanceof Trouble)) console.error(error);
      if (feed.after !== after) continue;
      feed.trouble = error.status ? `none come: ${short(error.message, 100)}` : "";
      flush();
      await pause(TRIES[Math.min(tries++, TRIES.length - 1)]);
    }
  }
}

function hear({ events, last, lost }, isFirst) {
  if (lost && !isFirst) gap("Some events are not here: more have happened than the proxy keeps.");
  feed.after = events.length ? events.at(-1).number : last;
  const fresh = take(events);
  if (!isFirst && !feed.isPaused) mention(fresh);
  flush();
}

/** Begin with the first event. What came from the new run before that was noticed has its place above the gap. */
function startOver(startedAt = Infinity) {
  Object.assign(feed, { after: 0, run: "" });
  feed.control?.abort();
  const isNew = (key) => Date.parse(key.split(" ")[1]) >= Math.floor(startedAt * 1000);
  for (const key of known) if (isNew(key)) known.delete(key);
  for (const made of [...node("events-list").children]) if (isNew(made.dataset.key)) made.remove();
  pending.splice(0, pending.length, ...pending.filter((event) => !isNew(keyOf(event))));
  gap("The proxy was started anew. What is below is from before, and has no details any more.");
  flush();
  requestsChanged();
}

/** A row in place of events that are missing. */
function gap(text) {
  const at = new Date(now() * 1000).toISOString();
  take([{ number: 0, time: `${at} ${text}`, at: now(), event: "gap", flow: null, text }]);
}

function take(events) {
  const fresh = events.filter((event) => !known.has(keyOf(event)));
  for (const event of fresh) known.add(keyOf(event));
  pending.push(...fresh);
  for (const event of pending.splice(0, pending.length - KEPT)) known.delete(keyOf(event));
  if (fresh.some((event) => event.flow)) requestsChanged();
  return fresh;
}

const isHeld = () =>
  feed.isPaused ||
  node("events-panel").scrollTop > 4 ||
  Date.now() - feed.touchedAt < STILL * 1000 ||
  node("events-list").contains(document.activeElement);

/** Show what has come, unless the rows are to stay; then say how much waits. */
export function flush(isWanted = false) {
  const list = node("events-list");
  if (pending.length && (isWanted || !isHeld())) {
    list.prepend(...pending.splice(0).map(create).reverse());
    while (list.childElementCount > KEPT) {
      known.delete(list.lastElementChild.dataset.key);
      list.lastElementChild.remove();
    }
  }
  node("held").hidden = !pending.length;
  put(node("held-show"), `Show ${count(pending.length, "new event")}`);
  const kept = list.childElementCount;
  node("events-none").hidden = kept > 0 || pending.length > 0;
  offer(node("events-count"), feed.trouble || (feed.isPaused ? "paused" : kept ? `the latest ${kept}` : ""));
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
    case "turn": // Its outcome is in its text only.
      return event.text.endsWith(": completed") ? ["good", "good"] : ["warn", event.text.includes(": failed") ? "bad" : "note"];
    case "request":
      if (event.status === null || event.status >= 400) return toneOfAnswer(event.status ?? 0);
      return event.refusals?.length ? ["warn", "good"] : ["good", "good"];
    default:
      return ["idle", "note"];
  }
}

/** Have it said how much is new, and the latest of it; of identities and of the breaker before all else. */
function mention(fresh) {
  if (!fresh.length) return;
  news.count += fresh.length;
  news.latest = fresh.at(-1);
  news.grave = fresh.findLast((event) => event.event === "identity" || event.event === "breaker") ?? news.grave;
  tell(() => {
    const { event, text } = news.grave ?? news.latest;
    const words = `${count(news.count, "new event")}. ${event}: ${short(text, 160)}`;
    Object.assign(news, { count: 0, grave: null });
    return words;
  });
}

/** Listen to those who read. */
export function listenToEvents() {
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
