// The headline: in one sentence, whether the proxy serves, and how many identities need a person.

import { announce } from "./announcements.js";
import { node, put, set } from "./nodes.js";
import { NEEDING, RETURNING, STATUSES, needsYou } from "./signs.js";
import { sentence } from "./times.js";
import { count, listed, short, spaced } from "./words.js";

const shown = { state: "" };

/** Show how it stands; `isLive` is false while the proxy does not answer, and the status is from before. */
export function showHeadline(status, isLive) {
  const { state, tone, title, text } = headline(status);
  set(node("headline-section"), "data-tone", isLive ? tone : "idle");
  const words = isLive ? title : `Last known: ${title}`;
  put(node("headline"), words);
  sentence(node("headline-words"), ...text);
  const needing = status.identities.filter(needsYou).length;
  const call = `(${needing}) codexpool: ${count(needing, "identity needs", "identities need")} you`;
  put(document.querySelector("title"), needing ? call : "codexpool");
  if (shown.state && shown.state !== state) announce(() => words);
  shown.state = state;
}

/** Say how a proxy stands. `state` is one word for what matters most of it. */
function headline({ proxy, identities: all, pool_file: file }) {
  if (proxy.closed) {
    return { state: "closed", tone: "bad", title: "All requests are refused", text: [short(proxy.closed, 500)] };
  }
  if (!all.length) {
    if (!proxy.pool) return { state: "empty", tone: "note", title: "No pool yet", text: ["Requests keep the client’s own login."] };
    const why = file?.missing ? [`There is no ${short(file.path, 200)}. `] : [];
    return { state: "empty", tone: "bad", title: "No identities", text: [...why, "Requests are refused until there is one."] };
  }
  const ready = all.filter((one) => one.status === "ready").length;
  const needing = all.filter(needsYou).length;
  const of = listed([`${ready} of ${all.length} ready`, needing && `${count(needing, "needs", "need")} you`], ", ");
  if (proxy.observe) return { state: "observe", tone: "note", title: `Observing: ${of}`, text: others(all) };
  if (ready) return { state: "serving", tone: needing ? "warn" : "good", title: `Serving: ${of}`, text: others(all) };
  if (all.every((one) => one.status === "unverified" && !one.needs)) {
    return { state: "starting", tone: "note", title: `Starting: ${of}`, text: ["The identities are being verified."] };
  }
  const back = all.filter((one) => RETURNING.has(one.status) && one.until).map((one) => one.until);
  const first = back.length ? ["The first one returns at ", [Math.min(...back), "both"], ". "] : [];
  return { state: "not serving", tone: "bad", title: `Not serving: ${of}`, text: [...first, ...others(all)] };
}

/** Count the identities that are neither ready nor in need of a person, by status. */
function others(all) {
  const rest = all.filter((one) => one.status !== "ready" && !needsYou(one)).map((one) => one.status);
  const words = [...new Set([...Object.keys(STATUSES), ...rest])].filter((word) => !NEEDING.has(word));
  const tallies = words.map((word) => [rest.filter((one) => one === word).length, spaced(word)]);
  const text = listed(tallies.map(([many, word]) => many && `${many} ${short(word, 24)}`));
  return text ? [text] : [];
}
