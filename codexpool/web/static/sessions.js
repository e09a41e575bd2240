// Sessions, the identity that serves each, and those that a person has pinned to one.

import { filterLink, isFiltered, isShown, onFilter } from "./filters.js";
import { code, keyed, known, make, name, node, put, row } from "./nodes.js";
import { retime, time } from "./times.js";
import { count, figure, short } from "./words.js";

const KEPT = 100;
const PINS = 20;
const CELLS = ["key", "serves", "member", "model", "client", "number requests", "number moves", "last"];

const latest = { all: [], total: 0 };

/** Show the sessions, last used first; rows under a pointer do not move. */
export function showSessions(all, total) {
  Object.assign(latest, { all, total });
  const rows = all.filter((one) => isShown({ ...one, session: one.key })).slice(0, KEPT);
  node("sessions-panel").classList.toggle("with-members", all.some((one) => one.member));
  const isPointedAt = node("sessions-panel").matches(":hover");
  keyed(node("sessions-rows"), rows, (one) => one.key, create, update, isPointedAt);
  const some = `${isFiltered() ? "" : "the latest "}${rows.length} of ${figure(total)}`;
  put(node("sessions-count"), total > rows.length ? some : total ? figure(total) : "");
  put(node("sessions-none"), isFiltered() ? "No session fits the filter." : "No session yet.");
  node("sessions-none").hidden = rows.length > 0;
}

function create(one) {
  const key = filterLink(code(one.key, 60), { session: one.key }, one.key);
  const own = {
    identity: name(""),
    member: name(""),
    model: name(""),
    client: name(""),
    requests: make("span"),
    requestWord: make("span", "unit"),
    moves: make("span"),
    moveWord: make("span", "unit"),
    last: time(one.last_at, "relative"),
  };
  const requests = make("span", "", own.requests, own.requestWord);
  const moves = make("span", "", own.moves, own.moveWord);
  const made = row(key, own.identity, own.member, own.model, own.client, requests, moves, own.last);
  CELLS.forEach((names, index) => (made.cells[index].className = names));
  return known(made, own);
}

function update(own, one) {
  put(own.identity, one.identity ? short(one.identity, 64) : "none");
  put(own.member, short(one.member ?? "", 48));
  put(own.model, short(one.model ?? "", 48));
  put(own.client, short(one.client ?? "", 48));
  put(own.requests, figure(one.requests));
  put(own.requestWord, one.requests === 1 ? " request" : " requests");
  put(own.moves, figure(one.moves));
  put(own.moveWord, one.moves === 1 ? " move" : " moves");
  retime(own.last, one.last_at, "relative");
}

onFilter(() => showSessions(latest.all, latest.total));

/** Show the sessions that are pinned to an identity, the last pinned first. */
export function showPins(all = [], total = 0) {
  const pins = all.slice(0, PINS);
  keyed(node("pins-list"), pins, (pin) => pin.session, createPin, (own, pin) => {
    put(own.identity, short(pin.identity, 64));
    retime(own.at, pin.at, "relative");
  });
  const some = total > pins.length ? `, the last ${pins.length} of them` : "";
  put(node("pins-count"), `${count(total, "session is", "sessions are")} pinned${some}:`);
  node("pins").hidden = !pins.length;
}

function createPin(pin) {
  const own = { identity: name(""), at: time(pin.at, "relative") };
  const session = code(pin.session, 80);
  session.title = pin.session;
  return known(make("li", "", session, " to ", own.identity, ", ", own.at), own);
}
