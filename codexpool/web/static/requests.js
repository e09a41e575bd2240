// The latest requests, and the outcome of each.

import { ask, wake } from "./api.js";
import { isFiltered, onFilter, query } from "./filters.js";
import { code, keyed, known, make, node, put, row, set } from "./nodes.js";
import { resign, sign, toneOfAnswer } from "./signs.js";
import { time } from "./times.js";
import { count, figure, listed, short, size, took } from "./words.js";

const KEPT = 50;
const COMMON = /^\/backend-api\//; // Left out, as in the evidence of verdicts: almost all paths begin with it.
let stale = true;
let filter = "";

onFilter(() => {
  stale = true;
  wake();
});

/** Fetch the requests next time: they have changed. */
export function requestsChanged() {
  stale = true;
}

/** Fetch and show the latest requests, if any has changed. */
export async function showRequests() {
  if (!stale) return;
  const asked = query();
  const { flows, total } = await ask(`/api/flows?limit=${KEPT}${asked && `&${asked}`}`);
  if (asked !== query()) return; // It was changed meanwhile, so it is asked for again.
  const all = flows.slice(0, KEPT);
  const panel = node("requests-panel");
  const from = panel.scrollTop;
  const height = panel.scrollHeight;
  keyed(node("requests-rows"), all, (flow) => flow.id, create, update);
  if (asked !== filter) panel.scrollTop = 0;
  else if (from > 0) panel.scrollTop = from + panel.scrollHeight - height;
  filter = asked;
  const some = `the latest ${all.length} of ${figure(total)}`;
  put(node("requests-count"), total > all.length ? some : all.length ? figure(all.length) : "");
  node("requests-none").hidden = all.length > 0 || isFiltered();
  node("requests-unfit").hidden = all.length > 0 || !isFiltered();
  stale = all.some((flow) => flow.ended_at === null);
}

export const flowLink = (id) => `#flow/${encodeURIComponent(id)}`;

function create(flow) {
  const opener = make("a", "open", make("span", "method", `${short(flow.method, 16)} `), code(flow.path.replace(COMMON, ""), 120));
  opener.href = flowLink(flow.id);
  const own = {
    more: make("span", "more"),
    way: make("bdi", "way"),
    sign: sign("wait"),
    answer: make("span"),
    badge: make("span", "badge"),
    took: make("span", "took"),
  };
  own.badge.append(own.sign, own.answer);
  const made = row(time(flow.at, "clock"), make("div", "", opener, own.more), own.way, make("div", "", own.badge, own.took));
  ["when", "what", "who", "answer"].forEach((names, index) => made.cells[index].classList.add(names));
  return known(made, own);
}

function update(own, flow) {
  const { session, policy } = flow;
  const isSwapped = policy.name.startsWith("swap");
  put(own.more, listed([
    flow.member && short(flow.member, 32),
    flow.host === "chatgpt.com" ? "" : short(flow.host, 60),
    session.key && short(session.key, 13),
    session.model && short(session.model, 32),
    flow.transport === "websocket" && listed(["WebSocket", flow.turns?.length && turnsOf(flow)], ", "),
    !isSwapped && policy.name,
    flow.observed && "observed",
  ]));
  own.more.title = session.key ?? "";
  const tries = flow.attempts.map((one) => listed([short(one.identity, 40), one.status === 0 ? "lost" : one.status], " "));
  put(own.way, tries.join(" → ") || (isSwapped || policy.name === "lent" ? "no identity" : "the client’s own"));
  const [tone, kind] = toneOf(flow);
  set(own.badge, "data-tone", tone);
  resign(own.sign, kind);
  put(own.answer, answerWords(flow));
  put(own.took, flow.ended_at === null ? "" : took((flow.ended_at - flow.at) * 1000));
  own.took.title = size(flow.answer?.bytes);
}

const TURNS = 16; // As many as the proxy keeps of a socket.
const turnsOf = ({ turns }) => (turns.length < TURNS ? count(turns.length, "turn") : `${TURNS} turns or more`);

const isUnderWay = (flow) => flow.ended_at === null && !flow.answer?.error;

/** Return the tone and the sign of what the client got. */
export function toneOf(flow) {
  if (flow.answer?.error || (!flow.answer?.status && !isUnderWay(flow))) return ["bad", "bad"];
  return flow.answer?.status ? toneOfAnswer(flow.answer.status) : ["idle", "wait"];
}

/** Describe what the client got. */
export function answerWords(flow) {
  const { answer } = flow;
  if (answer?.error) return listed([answer.status, "interrupted"], ", ");
  if (!answer?.status) return isUnderWay(flow) ? "under way" : "no answer";
  const open = flow.ended_at === null && (answer.status === 101 ? "open" : "under way");
  return listed([listed([answer.status, answer.by === "codexpool" && "by codexpool"], " "), open], ", ");
}
