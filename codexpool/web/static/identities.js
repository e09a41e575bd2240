// The identities of the pool: status, what each needs, and usage of its limits.

import { keyed, known, make, name, node, put, set } from "./nodes.js";
import { KINDS, NEEDING, STATUSES, resign, sign, toneOfStatus } from "./signs.js";
import { facts, now, sentence } from "./times.js";
import { count, listed, period, short, spaced } from "./words.js";

/** Show the identities: those that need an operator first, then in the pool's order. */
export function showIdentities({ identities: all, proxy }) {
  const needing = all.filter((one) => NEEDING.has(one.status));
  const others = all.filter((one) => !NEEDING.has(one.status));
  keyed(node("identities-list"), [...needing, ...others], (one) => one.name, create, update);
  const words = [...new Set([...Object.keys(STATUSES), ...all.map((one) => one.status)])];
  const tallies = words.map((word) => [all.filter((one) => one.status === word).length, spaced(word)]);
  put(node("identities-count"), listed(tallies.map(([many, word]) => many && `${many} ${short(word, 24)}`)));
  node("identities-none").hidden = all.length > 0 || Boolean(proxy.closed);
  node("identities-key").hidden = !all.some((one) => one.limits.length);
  const call = `(${needing.length}) codexpool: ${count(needing.length, "identity needs", "identities need")} you`;
  put(document.querySelector("title"), needing.length ? call : "codexpool");
}

function create(one) {
  const own = {
    sign: sign("ask"),
    word: make("span"),
    who: make("p", "who"),
    when: make("p", "when"),
    needs: make("span"),
    limits: make("ul", "limits"),
    families: make("ul", "families"),
    models: make("p", "counts"),
    counts: make("p", "counts"),
  };
  own.call = make("p", "call", sign("bad"), own.needs);
  own.limits.setAttribute("aria-label", "Usage");
  const heading = make("h3", "", name(one.name, 48));
  heading.title = one.name;
  const head = make("div", "head", heading, make("span", "badge", own.sign, own.word));
  return known(make("li", "identity", head, own.who, own.when, own.call, own.limits, own.families, own.models, own.counts), own);
}

function update(own, one, made) {
  const [tone, kind] = toneOfStatus(one.status);
  set(made, "data-tone", tone);
  resign(own.sign, kind);
  put(own.word, short(spaced(one.status), 24));
  const origin = one.origin === "https://chatgpt.com" ? "" : one.origin;
  const details = [one.plan, one.account_id, one.user_id, one.fedramp && "FedRAMP", origin];
  const credential = listed([KINDS[one.kind] ?? one.kind, one.fingerprint], " ");
  sentence(own.who, ...facts(...[credential, ...details].map((text) => text && short(text, 48))));
  sentence(own.when, ...condition(one));
  const needs = listed([one.needs, one.reminder, ...(one.not_for ?? [])], ". ");
  own.call.hidden = !needs;
  set(own.call, "data-tone", NEEDING.has(one.status) ? "bad" : "warn");
  put(own.needs, short(needs, 400));
  const several = new Set(one.limits.map((limit) => limit.family)).size > 1;
  const limits = one.limits.map((limit) => ({ ...limit, label: listed([several && short(limit.family, 40), period(limit.minutes)], " ") }));
  keyed(own.limits, limits, (limit) => `${limit.family} ${limit.minutes}`, createLimit, updateLimit);
  own.limits.hidden = !limits.length;
  const families = Object.entries(one.limited).filter(([, until]) => until !== one.until);
  keyed(own.families, families, ([family]) => family, () => make("li"), (item, [family, until]) => {
    sentence(item, `no requests for ${short(family, 60)} until `, [until, "both"]);
  });
  own.families.hidden = !families.length;
  sentence(own.models, ...facts(one.lacks?.length && `without ${short(one.lacks.join(", "), 200)}, which others have`));
  sentence(own.counts, ...use(one));
}

/** Return since when or until when an identity has its status, and why. */
function condition(one) {
  const content = [];
  if (one.until) content.push("until ", [one.until, "both"]);
  else if (one.since && one.status !== "ready") content.push("since ", [one.since, "both"]);
  if (one.evidence) content.push(`${content.length ? ": " : ""}${short(one.evidence, 300)}`);
  return content;
}

function use(one) {
  const left = one.headroom === null ? "usage unknown" : `${Math.round(one.headroom * 100)} % left`;
  const refusals = one.refusals ? count(one.refusals, "refusal") : "";
  const content = facts(left, count(one.sessions, "session"), count(one.requests, "request"), refusals);
  const credits = one.reset_credits;
  if (credits?.available) {
    content.push(` · ${count(credits.available, "reset credit")}`);
    const which = credits.available === 1 ? "which" : "the first";
    if (credits.expires_at) content.push(`, ${which} expires\u00a0`, [credits.expires_at, "relative"]);
  }
  if (one.last_used_at) content.push(" · ", "used\u00a0", [one.last_used_at, "relative"]);
  if (one.expires_at) content.push(one.expires_at > now() ? " · expires\u00a0" : " · expired\u00a0", [one.expires_at, "relative"]);
  return content;
}

function createLimit() {
  const own = {
    label: make("span", "window"),
    meter: make("span", "meter"),
    fill: make("span", "fill"),
    mark: make("span", "mark"),
    used: make("span", "used"),
    reset: make("span", "reset"),
  };
  set(own.meter, "role", "meter");
  set(own.meter, "aria-valuemin", 0);
  set(own.meter, "aria-valuemax", 100);
  own.meter.append(own.fill, own.mark);
  return known(make("li", "limit", own.label, own.meter, own.used, own.reset), own);
}

function updateLimit(own, limit) {
  const percent = Math.min(100, Math.max(0, limit.used_percent));
  const left = limit.resets_at === null ? null : limit.resets_at - now();
  const passed = left === null ? 0 : 100 * Math.min(1, Math.max(0, 1 - left / (limit.minutes * 60)));
  put(own.label, limit.label);
  own.fill.style.inlineSize = `${percent}%`;
  own.mark.hidden = left === null;
  own.mark.style.insetInlineStart = `${passed}%`;
  set(own.meter, "data-tone", percent >= 90 ? "bad" : percent >= 70 ? "warn" : "good");
  const used = `${Math.round(limit.used_percent)} % used`;
  set(own.meter, "aria-label", `${limit.label} window`);
  set(own.meter, "aria-valuenow", Math.round(percent));
  set(own.meter, "aria-valuetext", left === null ? used : `${used}, ${Math.round(passed)} % of its time has passed`);
  put(own.used, used);
  if (left === null) sentence(own.reset, limit.used_percent ? "reset unknown" : "has reset");
  else sentence(own.reset, left > 0 ? "resets " : "was reset ", [limit.resets_at, "relative"]);
}
