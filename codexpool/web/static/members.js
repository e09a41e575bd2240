// The members: what each may use of the pool, and what each has used today.

import { filterLink } from "./filters.js";
import { keyed, known, make, name, node, put, row, set } from "./nodes.js";
import { resign, sign } from "./signs.js";
import { sentence } from "./times.js";
import { compact, figure, short } from "./words.js";

const KEPT = 100;
const CELLS = ["key", "state", "number turns", "number today", "number tokens", "expires"];
const UNITS = ["turns under way", "turns today", "tokens today"];

/** Show the members in the order of pool.toml. */
export function showMembers({ members: all = [], proxy }) {
  const rows = all.slice(0, KEPT);
  node("members-section").hidden = !rows.length;
  const open = proxy.access === "anyone" ? ", and clients without a key" : "";
  const many = all.length > rows.length ? `the first ${rows.length} of ${figure(all.length)}` : figure(all.length);
  put(node("members-count"), `${many}${open}`);
  keyed(node("members-rows"), rows, (one) => one.name, create, update);
}

function create(one) {
  const link = filterLink(name(one.name, 48), { member: one.name }, `Requests of ${short(one.name, 48)}`);
  const own = { sign: sign("good"), word: make("span"), turns: make("span"), today: make("span"), tokens: make("span"), expires: make("span"), unit: make("span", "unit", "key expires ") };
  const state = make("span", "badge", own.sign, own.word);
  const counts = [own.turns, own.today, own.tokens].map((cell, index) => make("span", "", cell, make("span", "unit", ` ${UNITS[index]}`)));
  const made = row(link, state, ...counts, make("span", "", own.unit, own.expires));
  CELLS.forEach((names, index) => (made.cells[index].className = names));
  return known(made, { ...own, state });
}

function update(own, one) {
  const isValid = one.key === "valid";
  set(own.state, "data-tone", isValid ? "good" : "bad");
  resign(own.sign, isValid ? "good" : "bad");
  put(own.word, short(one.key, 24));
  put(own.turns, bounded(one.turns_under_way, one.turns_at_once));
  put(own.today, bounded(one.turns_today, one.turns_a_day));
  const tokens = one.tokens_today;
  put(own.tokens, tokens ? compact(tokens.input + tokens.output) : "");
  own.unit.hidden = !one.expires_at;
  sentence(own.expires, ...(one.expires_at ? [[one.expires_at, "relative"]] : []));
}

const bounded = (used, bound) => (bound == null ? figure(used) : `${figure(used)} of ${figure(bound)}`);
