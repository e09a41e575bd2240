// Notices at the top: the proxy does not answer or only observes, the state is lost, the breaker is open.

import { keyed, known, make, node, put, set } from "./nodes.js";
import { resign, sign } from "./signs.js";
import { announce } from "./announcements.js";
import { now, sentence } from "./times.js";
import { count, short } from "./words.js";

const link = { state: "asking", since: 0, words: "" };
let shown = new Set();

export const isLive = () => link.state === "live";

/** Note that the proxy has answered with its status document. */
export function answered(status) {
  if (link.state === "lost") announce(() => "The proxy answers again.");
  linked("live", "", status);
}

/** Note that the proxy has not answered, and the error; `status` is its last status document, if any. */
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
  if (fresh >= 0) announce(() => node("notices").children[fresh]?.textContent ?? "");
  shown = new Set(found.map((one) => one.key));
}

function* ofLink() {
  if (link.state !== "lost") return;
  const since = [link.since, "clock"];
  const title = link.words ? "The proxy does not serve this page" : "The proxy does not answer";
  const why = link.words ? `: ${short(link.words, 300)}.` : ".";
  yield { key: "link", tone: "bad", title, text: [" since ", since, why, " Retrying; the data below is from before."] };
}

function* ofProxy({ proxy, breaker, state, pool_file: file }) {
  if (file?.problem) {
    const stays = file.read_at ? ["The one of ", [file.read_at, "both"], " stays in use. "] : [];
    const text = [`${short(file.problem, 500)}. `, ...stays, { command: "codexpool config check" }];
    yield { key: "file", tone: "warn", title: "pool.toml is not used as it is now: ", text };
  }
  if (proxy.installed && proxy.installed !== proxy.version) {
    const text = [`codexpool ${short(proxy.installed, 40)} is installed, and ${short(proxy.version, 40)} runs.`];
    yield { key: "version", tone: "note", title: "Restart the proxy to upgrade: ", text };
  }
  if (proxy.observe) {
    const text = ["Requests show what would have been done."];
    yield { key: "observe", tone: "note", title: "Observe mode: nothing is changed. ", text };
  }
  if (state && !state.connected) {
    const waiting = state.waiting ? ` (${count(state.waiting, "row")} so far)` : "";
    const text = [
      `${short(state.where, 200)} is lost since `,
      [state.since, "both"],
      `. The proxy goes on with what it knows, and writes what it learns${waiting} once it is back.`,
    ];
    yield { key: "state", tone: "note", title: "The state is out of reach. ", text };
  }
  if (breaker.open) {
    const who = breaker.names.length ? `Died within a minute: ${short(breaker.names.join(", "), 300)}. ` : "";
    const until = breaker.until ? ["It is open until ", [breaker.until, "both"], "; "] : [];
    const text = [who, ...until, { command: "codexpool breaker --close" }, " closes it."];
    yield { key: "breaker", tone: "bad", title: "The breaker is open: sessions are not moved. ", text };
  }
}

function create() {
  const own = { sign: sign("note"), title: make("strong"), text: make("span") };
  return known(make("li", "notice", own.sign, make("p", "", own.title, own.text)), own);
}

function update(own, { tone, title, text }, made) {
  set(made, "data-tone", tone);
  resign(own.sign, tone === "note" ? "note" : "bad");
  put(own.title, title);
  sentence(own.text, ...text);
}
