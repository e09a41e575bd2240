// The headers of a request: what the client sent, what went upstream, and what came back.

import { code, keyed, known, make, name, node, putOrHide, partsOf, put, row } from "./nodes.js";
import { count, short } from "./words.js";

const CHANGES = { "=": ["kept", "idle"], "~": ["replaced", "warn"], "+": ["added", "good"], "-": ["removed", "bad"] };
const LONGEST = 2000;

/** Show the table of a request's headers: all, or only the changed ones. */
export function showHeaders(flow, table) {
  const changed = table.filter((one) => one.sign !== "=");
  const tries = flow.attempts.filter((one) => one.request_headers.length).map((one) => `${one.number} ${short(one.identity, 24)}`);
  const counts = new Map();
  const items = (node("flow-changed").checked ? changed : table).map((one) => {
    const key = `${one.name.toLowerCase()} ${one.sign}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
    return { ...one, tries, key: `${key} ${counts.get(key)}` };
  });
  keyed(node("flow-headers"), items, (one) => one.key, create, update);
  put(node("flow-headers-count"), `${changed.length} changed, ${table.length - changed.length} kept`);
}

/** Make a cell that names its column itself, for narrow pages without column titles. */
function cell(title) {
  const value = make("div", "value");
  return known(make("div", "", make("span", "unit", title), value), value);
}

function create(one) {
  const [word, tone] = CHANGES[one.sign] ?? ["changed", "warn"];
  const own = { means: make("span", "means"), client: cell("the client sent"), upstream: cell("went upstream") };
  const change = make("span", "change", make("b", "", one.sign), ` ${word}`);
  const made = row(make("div", "", make("div", "head", code(one.name, 100), change), own.means), own.client, own.upstream);
  made.dataset.tone = tone;
  return known(made, own);
}

function update(own, one) {
  putOrHide(own.means, one.means ?? "");
  const client = partsOf(own.client);
  put(client, one.client === null ? "nothing" : short(one.client, LONGEST));
  client.classList.toggle("aside", one.client === null);
  const values = one.upstream.map((value, index) => ({ value, who: one.tries[index] ?? String(index + 1) }));
  const areAlike = new Set(one.upstream).size <= 1;
  const lines = areAlike ? [{ value: one.upstream[0], who: "" }] : values;
  keyed(partsOf(own.upstream), lines, (line) => line.who, createTry, (item, { value }) => {
    const aside = value === undefined ? "not sent" : value === null ? "nothing" : value === one.client ? "the same" : "";
    put(item, aside || short(value, LONGEST));
    item.classList.toggle("aside", Boolean(aside));
  });
}

/** Make the value of one attempt; `who` is empty if the value is the same for all. */
function createTry({ who }) {
  const item = make("bdi");
  const made = make("div", "", ...(who ? [make("span", "try", name(who))] : []), item);
  return known(made, item);
}

/** Show the headers of each attempt's answer. */
export function showAnswers(flow) {
  const answers = flow.attempts.filter((one) => one.response_headers.length);
  keyed(node("flow-answers"), answers, (one) => one.number, createAnswer, updateAnswer);
  node("flow-no-answers").hidden = answers.length > 0;
}

function createAnswer(attempt) {
  const own = { words: make("span"), rows: make("tbody") };
  const heads = make("tr", "", make("th", "", "Header"), make("th", "", "Value"));
  for (const head of heads.cells) head.scope = "col";
  const caption = make("caption", "unseen", `Headers of the answer to attempt ${attempt.number}`);
  const summary = make("summary", "", `Attempt ${attempt.number}, `, name(attempt.identity, 48), own.words);
  return known(make("details", "", summary, make("table", "plain", caption, make("thead", "", heads), own.rows)), own);
}

function updateAnswer(own, attempt) {
  put(own.words, `: ${attempt.status || "lost"}, ${count(attempt.response_headers.length, "header")}`);
  const items = attempt.response_headers.map(([title, value], index) => ({ title, value, index }));
  const create = (one) => row(code(one.title, 100), make("bdi", "value"));
  keyed(own.rows, items, (one) => `${one.index} ${one.title}`, create, (made, one) => {
    put(made.cells[1].firstElementChild, short(one.value, LONGEST));
  });
}
