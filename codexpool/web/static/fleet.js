// The proxies that share the state, if it is a server's or there are several.

import { keyed, known, make, node, put } from "./nodes.js";
import { facts, sentence } from "./times.js";
import { count, figure, short } from "./words.js";

const KEPT = 100;

/** Show the proxies that have sent a heartbeat lately, this one first. */
export function showFleet(state, all = []) {
  const proxies = all.slice(0, KEPT);
  const isShown = Boolean(state) && (proxies.length > 1 || state.engine !== "sqlite");
  node("fleet-section").hidden = !isShown;
  if (!isShown) return;
  put(node("fleet-count"), figure(all.filter((one) => one.alive).length));
  put(node("fleet-state"), short(state.where, 200));
  keyed(node("fleet-list"), proxies, (one) => `${one.host} ${one.pid}`, create, update);
}

function create() {
  const own = { host: make("bdi"), facts: make("span") };
  return known(make("li", "", make("strong", "", own.host), " ", own.facts), own);
}

function update(own, one) {
  put(own.host, short(one.host, 80));
  const words = [
    one.self ? "this proxy" : "",
    `codexpool ${short(one.version, 40)}`,
    `process ${one.pid}`,
    count(one.sessions, "session"),
  ];
  const silent = one.alive ? [] : [" · ", "last heartbeat ", [one.seen_at, "relative"]];
  sentence(own.facts, ...facts(...words), " · ", "started ", [one.started_at, "relative"], ...silent);
}
