// The details of one request: its route and why, each attempt, headers, and timing. Its address (#flow/ID) is a
// permanent link; Escape, Close and a click outside return to where it was opened.

import { ask } from "./api.js";
import { showAnswers, showHeaders } from "./headers.js";
import { keyed, known, make, name, node, putOrHide, put, row, set, texts } from "./nodes.js";
import { answerWords, toneOf } from "./requests.js";
import { KINDS, resign, sign, toneOfAnswer } from "./signs.js";
import { facts, sentence, time } from "./times.js";
import { listed, short, size, took } from "./words.js";

const LONGEST = 2000;
const detail = { id: "", found: null };

/** Open or close the dialog to match the page's address. */
function navigate() {
  const id = /^#flow\/(.+)$/.exec(location.hash)?.[1];
  const dialog = node("flow");
  if (id === undefined) {
    dialog.close();
    return;
  }
  Object.assign(detail, { id: unquoted(id), found: null });
  node("flow-content").hidden = true;
  put(node("flow-title"), "Request");
  put(node("flow-where"), "");
  putOrHide(node("flow-words"), "Loading …");
  if (!dialog.open) dialog.showModal();
  node("flow-title").focus();
  refresh();
}

function unquoted(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Refresh the details while the request is under way. */
export async function refreshDetail() {
  if (detail.found?.flow.ended_at === null) await refresh();
}

async function refresh() {
  const { id } = detail;
  try {
    const found = await ask(`/api/flows/${encodeURIComponent(id)}`);
    if (detail.id !== id) return;
    detail.found = found;
    putOrHide(node("flow-words"), found.flow.ended_at === null ? "This request is under way." : "");
    node("flow-content").hidden = false;
    show(found);
  } catch (error) {
    if (detail.id !== id || detail.found) return;
    const why = error.message || "the proxy does not answer";
    putOrHide(node("flow-words"), error.status === 404 ? "The proxy no longer remembers this request." : `Cannot show this request: ${why}.`);
  }
}

function show({ flow, table, explanation }) {
  put(node("flow-title"), `${short(flow.method, 16)} ${short(flow.path, 200)}`);
  const how = [flow.transport === "websocket" ? "WebSocket" : "HTTP", flow.client && `from ${flow.client}`, flow.observed && "observe mode: nothing was changed"];
  sentence(node("flow-where"), `${short(flow.host, 100)} · no. ${flow.number} · `, [flow.at, "clock"], ` · ${listed(how)}`);
  showRoute(flow);
  const lines = explanation.filter((line) => line !== `${flow.method} ${flow.url}`); // Same as the title.
  texts(node("flow-explanation"), lines, (made, line) => {
    made.className = line.startsWith("  ") ? "under" : /^[A-Z][a-z ]+$/.test(line) ? "heading" : "";
  });
  keyed(node("flow-attempts"), flow.attempts, (one) => one.number, createAttempt, updateAttempt);
  node("flow-no-attempts").hidden = flow.attempts.length > 0;
  texts(node("flow-waits"), flow.waits.map((one) => `waited ${took(one.milliseconds)}: ${one.for}`));
  showTurns(flow.turns);
  showHeaders(flow, table);
  showAnswers(flow);
  showSpent(flow.time);
  showFacts(flow);
  node("flow-json").href = `/api/flows/${encodeURIComponent(flow.id)}`;
}

/** Show the route of a request: the client, each attempt, and what the client got. */
function showRoute(flow) {
  const tries = flow.attempts.map((one) => {
    const status = one.status === 0 ? "lost" : one.status ?? (flow.observed ? "would serve" : one.sent_at ? "asked" : "not sent");
    return { title: one.identity, note: listed([status, one.verdict?.finding], " "), signs: toneOfAnswer(one.status) };
  });
  const client = { title: "client", note: flow.client ?? "", signs: ["idle", "note"] };
  const stops = [client, ...tries, { title: "client", note: answerWords(flow), signs: toneOf(flow) }];
  const items = stops.map((stop, index) => ({ ...stop, index }));
  keyed(node("flow-route"), items, (stop) => stop.index, createStop, (own, stop, made) => {
    set(made, "data-tone", stop.signs[0]);
    resign(own.sign, stop.signs[1]);
    put(own.title, short(stop.title, 48));
    put(own.note, short(stop.note, 60));
  });
}

function createStop() {
  const own = { sign: sign("note"), title: name(""), note: make("span", "note") };
  return known(make("li", "", make("div", "stop", own.sign, make("span", "", own.title, own.note))), own);
}

function createAttempt(attempt) {
  const own = {
    sign: sign("wait"),
    answer: make("span"),
    who: make("p", "who"),
    lines: make("ul", "lines"),
    candidates: make("ul", "candidates"),
  };
  own.candidates.setAttribute("aria-label", "Candidates");
  const heading = make("h4", "", `${attempt.number}. `, name(attempt.identity, 64));
  const head = make("div", "head", heading, make("span", "badge", own.sign, own.answer));
  return known(make("li", "", head, own.who, own.lines, own.candidates), own);
}

function updateAttempt(own, attempt, made) {
  const { status, verdict } = attempt;
  const [tone, kind] = toneOfAnswer(status);
  set(made, "data-tone", tone);
  resign(own.sign, kind);
  const unanswered = attempt.sent_at === null ? "not sent" : "no answer yet";
  put(own.answer, status === null ? unanswered : status === 0 ? "connection lost" : String(status));
  const credential = listed([KINDS[attempt.kind] ?? attempt.kind, attempt.fingerprint], " ");
  const details = [credential, attempt.account_id, attempt.origin].map((text) => text && short(text, 80));
  sentence(own.who, ...facts(...details, took(attempt.milliseconds)));
  const lines = [
    `chosen because: ${attempt.because}`,
    attempt.lighter && "sent without encrypted reasoning",
    attempt.evidence && `evidence: ${short(attempt.evidence, 400)}`,
    verdict && `verdict: ${verdict.finding}, row ${verdict.row}: ${verdict.next}`,
    attempt.request_id && `request id: ${short(attempt.request_id, 100)}`,
  ];
  texts(own.lines, lines.filter(Boolean));
  keyed(own.candidates, attempt.candidates ?? [], (one) => one.name, createCandidate, updateCandidate);
  own.candidates.hidden = !attempt.candidates?.length;
}

function createCandidate(one) {
  const own = { sign: sign("none"), words: make("span") };
  return known(make("li", "", own.sign, make("span", "", name(one.name, 48), own.words)), own);
}

function updateCandidate(own, one, made) {
  set(made, "data-tone", one.chosen ? "good" : "idle");
  resign(own.sign, one.chosen ? "good" : "none");
  const words = [
    one.chosen ? " was chosen" : " was not chosen",
    one.for.length && `for it: ${one.for.join(", ")}`,
    one.against.length && `against it: ${one.against.join(", ")}`,
  ];
  put(own.words, short(listed(words, "; "), 400));
}

function showTurns(turns) {
  node("flow-turns-part").hidden = !turns.length;
  const create = (turn) => {
    const made = row(time(turn.at, "clock"), "", "", "");
    ["value", "number", "number"].forEach((names, index) => made.cells[index + 1].classList.add(names));
    return made;
  };
  keyed(node("flow-turns"), turns, (turn) => turn.at, create, (made, turn) => {
    const cells = [short(turn.outcome || "under way", 300), took(turn.milliseconds), size(turn.bytes)];
    cells.forEach((text, index) => put(made.cells[index + 1], text));
  });
}

function showSpent(parts) {
  const total = parts.reduce((all, [, long]) => all + long, 0);
  const items = parts.map(([what, long], index) => ({ what, long, index }));
  keyed(node("flow-time"), items, (one) => one.index, createSpent, (own, one) => {
    put(own.what, short(one.what, 120));
    put(own.long, took(one.long));
    own.bar.style.inlineSize = `${total ? (100 * one.long) / total : 0}%`;
  });
}

function createSpent() {
  const own = { what: make("span"), bar: make("span", "fill"), long: make("span") };
  const made = row(make("div", "", own.what, make("span", "spent", own.bar)), own.long);
  made.cells[1].classList.add("number");
  return known(made, own);
}

function showFacts({ session, member, policy, answer, url, request_bytes: bytes }) {
  const items = [
    ["Member", member],
    ["Session", session.key ?? "none", session.from ? `from ${session.from}` : ""],
    ["Started by", session.parent],
    ["Model", session.model],
    ["Client", session.user_agent],
    ["Policy", `${policy.name}: ${policy.means}`, policy.row],
    ["URL", url],
    ["Sent by the client", size(bytes)],
    ["Answered with", size(answer?.bytes)],
    ["Error", answer?.error],
    ["Message of codexpool", answer?.message],
  ].filter(([, value]) => value);
  keyed(node("flow-facts"), items, ([title]) => title, createFact, (own, [, value, note]) => {
    put(own.value, short(value, LONGEST));
    putOrHide(own.note, short(note ?? "", LONGEST));
  });
}

function createFact([title]) {
  const own = { value: make("bdi", "value"), note: make("bdi", "note") };
  return known(make("div", "", make("dt", "", title), make("dd", "", own.value, own.note)), own);
}

/** Open the dialog whenever the page's address names a request. */
export function listenToDetail() {
  const dialog = node("flow");
  addEventListener("hashchange", navigate);
  node("flow-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#flow/")) history.replaceState(null, "", location.pathname + location.search);
    Object.assign(detail, { id: "", found: null });
    if (document.activeElement === document.body) node("events").focus({ preventScroll: true });
  });
  node("flow-changed").addEventListener("change", () => detail.found && showHeaders(detail.found.flow, detail.found.table));
  navigate();
}
