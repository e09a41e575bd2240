// The identities of the pool, those that need a person first: what each needs, and what each has left.

import { keyed, known, make, name, node, put, set } from "./nodes.js";
import { KINDS, RETURNING, needsYou, resign, sign, toneOfStatus } from "./signs.js";
import { facts, now, sentence } from "./times.js";
import { compact, count, figure, listed, period, short, spaced } from "./words.js";

const GROUPS = [
  ["Needs you", needsYou],
  ["Ready", (one) => one.status === "ready"],
  ["Limited or resting", (one) => RETURNING.has(one.status)],
  ["Paused", (one) => one.status === "paused"],
  ["Being checked", () => true],
];
const ORIGIN = "https://chatgpt.com";

/** Show the identities in groups; within one in the pool's order. */
export function showIdentities({ identities: all }) {
  const groupOf = (one) => GROUPS.find(([, has]) => has(one))[0];
  const groups = GROUPS.map(([title]) => ({ title, members: all.filter((one) => groupOf(one) === title) }));
  keyed(node("identities-list"), groups.filter((one) => one.members.length), (one) => one.title, createGroup, updateGroup);
  put(node("identities-count"), figure(all.length));
  node("identities-section").hidden = !all.length;
  node("identities-key").hidden = !all.some((one) => one.limits.length && !needsYou(one));
}

function createGroup({ title }) {
  const own = { count: make("span", "count"), list: make("ul", "identities") };
  const heading = make("h3", "", `${title} `, own.count);
  heading.id = `group-${GROUPS.findIndex(([one]) => one === title)}`;
  own.list.setAttribute("aria-labelledby", heading.id);
  return known(make("div", "group", heading, own.list), own);
}

function updateGroup(own, { members }, made) {
  put(own.count, figure(members.length));
  made.style.setProperty("--many", members.length);
  keyed(own.list, members, (one) => one.name, create, update);
}

function create(one) {
  const own = {
    sign: sign("ask"),
    word: make("span"),
    who: make("p", "who"),
    ids: make("p", "who ids"),
    left: make("p", "left"),
    when: make("p", "when"),
    needs: make("p"),
    warnings: make("ul"),
    limits: make("ul", "limits"),
    families: make("ul", "families"),
    models: make("p", "counts"),
    counts: make("p", "counts"),
  };
  own.call = make("div", "call", sign("bad"), make("div", "", own.needs, own.warnings));
  own.limits.setAttribute("aria-label", "Usage");
  const heading = make("h4", "", name(one.name, 48));
  heading.title = one.name;
  const head = make("div", "head", heading, make("span", "badge", own.sign, own.word));
  const content = [head, own.who, own.ids, own.left, own.when, own.call, own.limits, own.families, own.models, own.counts];
  return known(make("li", "identity", ...content), own);
}

function update(own, one, made) {
  const [tone, kind] = toneOfStatus(one.status);
  const isDead = needsYou(one); // What it has left, or is not used for, does not matter then.
  set(made, "data-tone", isDead ? "bad" : tone);
  resign(own.sign, kind);
  put(own.word, short(spaced(one.status), 24));
  const origin = one.origin === ORIGIN ? "" : one.origin;
  showFacts(own.who, one.email, one.plan, KINDS[one.kind] ?? one.kind, one.fedramp && "FedRAMP", origin);
  showFacts(own.ids, one.account_id, one.user_id, one.fingerprint && `sha256:${one.fingerprint}`);
  sentence(own.left, ...(isDead || one.status === "paused" ? [] : left(one)));
  sentence(own.when, ...condition(one));
  showCall(own, one, isDead);
  showLimits(own, one, isDead);
  const lacks = isDead ? [] : (one.lacks ?? []);
  sentence(own.models, ...facts(lacks.length && `without ${short(lacks.join(", "), 200)}, which others have`));
  sentence(own.counts, ...use(one, isDead));
}

function showFacts(where, ...all) {
  sentence(where, ...facts(...all.map((text) => text && short(text, 64))));
}

/** Show what an identity needs, with its command, and what there is to be warned of. */
function showCall(own, one, isDead) {
  const warnings = isDead || one.status === "paused" ? [] : [one.reminder, ...(one.not_for ?? [])].filter(Boolean);
  own.call.hidden = !one.needs && !warnings.length;
  set(own.call, "data-tone", isDead ? "bad" : "warn");
  const isCommand = one.command && one.needs.endsWith(one.command);
  const words = isCommand ? one.needs.slice(0, -one.command.length) : one.needs;
  sentence(own.needs, ...[short(words, 400), isCommand && { command: one.command }].filter(Boolean));
  keyed(own.warnings, warnings, (text) => text, () => make("li"), (made, text) => put(made, short(text, 200)));
  own.warnings.hidden = !warnings.length;
}

function showLimits(own, one, isDead) {
  const several = new Set(one.limits.map((limit) => limit.family)).size > 1;
  const label = (limit) => listed([several && short(limit.family, 40), period(limit.minutes)], " ");
  const limits = isDead ? [] : one.limits.map((limit) => ({ ...limit, label: label(limit) }));
  keyed(own.limits, limits, (limit) => `${limit.family} ${limit.minutes}`, createLimit, updateLimit);
  own.limits.hidden = !limits.length;
  const families = isDead ? [] : Object.entries(one.limited).filter(([, until]) => until !== one.until);
  keyed(own.families, families, ([family]) => family, () => make("li"), (item, [family, until]) => {
    sentence(item, `no requests for ${short(family, 60)} until `, [until, "both"]);
  });
  own.families.hidden = !families.length;
}

/** Return what is left of an identity, and its tokens of today. */
function left({ headroom, tokens_today: tokens }) {
  const share = headroom === null ? "usage unknown" : `${Math.round(headroom * 100)} % left`;
  const used = tokens && tokens.input + tokens.output;
  return facts(share, used && `${compact(used)} tokens today`);
}

/** Return since when or until when an identity has its status, and why. */
function condition(one) {
  const content = [];
  if (one.until) content.push("until ", [one.until, "both"]);
  else if (one.since && one.status !== "ready") content.push("since ", [one.since, "both"]);
  if (one.evidence) content.push(`${content.length ? ": " : ""}${short(one.evidence, 300)}`);
  return content;
}

function use(one, isDead) {
  const refusals = one.refusals ? count(one.refusals, "refusal") : "";
  const content = facts(count(one.sessions, "session"), `${count(one.requests, "request")} last hour`, refusals);
  const credits = isDead ? null : one.reset_credits;
  if (credits?.available) {
    content.push(` · ${count(credits.available, "reset credit")}`);
    const which = credits.available === 1 ? "which" : "the first";
    if (credits.expires_at) content.push(`, ${which} expires\u00a0`, [credits.expires_at, "relative"]);
  }
  if (one.last_used_at) content.push(" · ", "used\u00a0", [one.last_used_at, "relative"]);
  if (one.expires_at && !isDead) {
    content.push(one.expires_at > now() ? " · expires\u00a0" : " · expired\u00a0", [one.expires_at, "relative"]);
  }
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

/** Show the ids of accounts, users and tokens on demand. */
export function listenToIdentities() {
  const button = node("ids");
  button.addEventListener("click", () => {
    const isShown = node("identities-list").classList.toggle("with-ids");
    set(button, "aria-pressed", isShown);
  });
}
