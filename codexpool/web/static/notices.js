// What you should know before all else: that nothing is served, that nobody answers, that nothing is changed.

import { keyed, known, make, node, put, set } from "./nodes.js";
import { RETURNING, resign, sign } from "./signs.js";
import { tell } from "./telling.js";
import { now, sentence } from "./times.js";
import { short } from "./words.js";

const link = { state: "asking", since: 0, words: "" };
let shown = new Set();

/** Whether the proxy answers. */
export const isLive = () => link.state === "live";

/** Note that the proxy has answered, with its status document. */
export function answered(status) {
  if (link.state === "lost") tell(() => "The proxy answers again.");
  linked("live", "", status);
}

/** Note that it has not, and what came in place of an answer; `status` is what was known before, if anything. */
export function unanswered(words, status) {
  if (link.state !== "lost") link.since = now();
  linked("lost", words, status);
}

function linked(state, words, status) {
  Object.assign(link, { state, words });
  set(node("link"), "data-state", state);
  put(node("link-words"), state === "live" ? "live" : "no answer");
  const found = [...ofLink(), ...(status ? ofProxy(status) : [])];
  keyed(node("notices"), found, (one) => one.key, create, update);
  const fresh = found.findIndex((one) => !shown.has(one.key));
  if (fresh >= 0) tell(() => node("notices").children[fresh]?.textContent ?? "");
  shown = new Set(found.map((one) => one.key));
}

function* ofLink() {
  if (link.state !== "lost") return;
  const since = [link.since, "clock"];
  const title = link.words ? "The proxy does not serve this page" : "The proxy does not answer";
  const why = link.words ? `: ${short(link.words, 300)}.` : ".";
  yield { key: "link", tone: "bad", title, text: [" since ", since, why, " It is asked again and again; what is below is from before."] };
}

function* ofProxy({ proxy, breaker, identities }) {
  if (proxy.closed) {
    yield { key: "closed", tone: "bad", title: "Nothing is served: ", text: [short(proxy.closed, 500)] };
  } else if (!proxy.pool) {
    const text = [{ command: "codexpool add NAME" }, " makes one, and a running proxy notices it within seconds."];
    yield { key: "pool", tone: "note", title: "There is no pool.toml, so nothing is swapped. ", text };
  }
  if (proxy.observe) {
    const text = ["What is said of a request is what would have been done."];
    yield { key: "observe", tone: "note", title: "Observe mode: nothing is changed. ", text };
  }
  if (breaker.open) {
    const who = breaker.names.length ? `Refused within a minute: ${short(breaker.names.join(", "), 300)}. ` : "";
    const until = breaker.until ? ["It is open until ", [breaker.until, "both"], "; "] : [];
    const text = [who, ...until, { command: "codexpool breaker --close" }, " ends it."];
    yield { key: "breaker", tone: "bad", title: "The breaker is open: sessions are not moved. ", text };
  }
  if (identities.length && !proxy.closed && !identities.some((one) => one.status === "ready")) {
    const back = identities.filter((one) => RETURNING.has(one.status) && one.until).map((one) => one.until);
    const text = back.length ? ["The first one is back at ", [Math.min(...back), "both"], "."] : ["What each needs is below."];
    yield { key: "nobody", tone: "bad", title: "No identity is ready. ", text };
  }
}

function create() {
  const own = { sign: sign("note"), title: make("strong"), text: make("span") };
  return known(make("li", "notice", own.sign, make("p", "", own.title, own.text)), own);
}

function update(own, { tone, title, text }, made) {
  set(made, "data-tone", tone);
  resign(own.sign, tone);
  put(own.title, title);
  sentence(own.text, ...text);
}
