// The page of a running proxy. It fetches the status every other second, and long-polls for events.
//
// Its data comes from clients and backends, so it enters the page as text only (nodes.js), and each list is bounded.
// Elements are updated in place, which keeps focus, selection and scroll position.

import { ApiError, ask, pause, wake } from "./api.js";
import { listenToDetail, refreshDetail } from "./detail.js";
import { showBegin } from "./begin.js";
import { flush, follow, followEvents, listenToEvents } from "./events.js";
import { showFleet } from "./fleet.js";
import { listenToFilters, offer } from "./filters.js";
import { showHeadline } from "./headline.js";
import { listenToHour, showHour } from "./hour.js";
import { listenToIdentities, showIdentities } from "./identities.js";
import { showMembers } from "./members.js";
import { node, put } from "./nodes.js";
import { answered, unanswered } from "./notices.js";
import { showRequests } from "./requests.js";
import { showPins, showSessions } from "./sessions.js";
import { facts, sentence, setClock, tick } from "./times.js";
import { short } from "./words.js";

const EVERY = { shown: 2, hidden: 30 }; // Seconds between two requests for the status,
const TRIES = [1, 2, 4, 8]; // and before each retry.

let status = null;

function show(found) {
  status = found;
  setClock(found.at);
  node("content").hidden = false;
  answered(found);
  showHeadline(found, true);
  showBegin(found);
  showIdentities(found);
  showMembers(found);
  offer(found);
  showHour(found);
  showSessions(found.sessions, found.sessions_total);
  showPins(found.pins, found.pins_total);
  showFleet(found.state, found.fleet);
  showLinks();
  follow(found);
  const { proxy } = found;
  put(node("requests-listens"), proxy.listens[0] ?? "127.0.0.1:8080");
  const of = [
    `codexpool ${proxy.version}`,
    `mitmproxy ${proxy.mitmproxy}`,
    `Python ${proxy.python}`,
    `process ${proxy.pid}`,
    `listens on ${proxy.listens.join(", ") || "nothing"}`,
    proxy.pool ?? "no pool.toml",
  ];
  const words = facts(...of.map((text) => short(text, 200)));
  const read = found.pool_file?.read_at ? [" read ", [found.pool_file.read_at, "both"]] : [];
  sentence(node("proxy"), ...words, ...read, " · ", "started ", [proxy.started_at, "both"]);
}

/** Show the links to the sections that there are. */
function showLinks() {
  for (const link of document.querySelectorAll("nav a")) {
    link.parentElement.hidden = !document.querySelector(link.hash).checkVisibility();
  }
}

async function followStatus() {
  let tries = 0;
  for (;;) {
    try {
      show(await ask("/api/status"));
      await showRequests();
      await refreshDetail();
      tries = 0;
      wake(); // The events may be waiting for the proxy.
    } catch (error) {
      if (!(error instanceof ApiError)) console.error(error);
      if (status) showHeadline(status, false);
      unanswered(error instanceof ApiError ? error.message : "an error in this page; see the console", status);
      tries += 1;
    }
    tick();
    flush();
    const seconds = tries ? TRIES[Math.min(tries, TRIES.length) - 1] : EVERY.shown;
    await pause(document.hidden ? EVERY.hidden : seconds);
  }
}

/** Let arrow keys move from row to row. */
function arrows(list) {
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...list.querySelectorAll("a")];
    const next = all[all.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}

listenToDetail();
listenToEvents();
listenToFilters();
listenToIdentities();
listenToHour();
arrows(node("events-list"));
arrows(node("requests-rows"));
arrows(node("sessions-rows"));
addEventListener("online", wake);
document.addEventListener("visibilitychange", () => document.hidden || wake());
followStatus();
followEvents();
