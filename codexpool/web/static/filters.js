// What the lists show: by identity, member, session, and the outcome of requests. It is in the page's address, so that
// a link and a reload keep it.

import { keyed, make, node, set } from "./nodes.js";
import { short } from "./words.js";

const NAMES = ["identity", "member", "session", "outcome"];
const LONGEST = 300;
const listeners = [];
const filter = Object.fromEntries(NAMES.map((name) => [name, ""]));

/** Call a function after each change. */
export const onFilter = (changed) => listeners.push(changed);

/** Return the filter of requests as a query; empty if there is none. */
export function query() {
  const parameters = new URLSearchParams(NAMES.filter((name) => filter[name]).map((name) => [name, filter[name]]));
  return String(parameters);
}

/** Return whether a session, or an event, is to be shown. An event has the identity of before, too. */
export function isShown({ identity, was, becomes, member, session }) {
  const has = (name, ...values) => !filter[name] || values.includes(filter[name]);
  return has("identity", identity, was, becomes) && has("member", member) && (session ?? "").includes(filter.session);
}

export const isFiltered = () => NAMES.some((name) => filter[name]);

/** Filter by some values, and leave the other ones. */
export function filterBy(values) {
  for (const [name, value] of Object.entries(values)) filter[name] = value.slice(0, LONGEST);
  const parameters = query();
  history.replaceState(null, "", `${location.pathname}${parameters && `?${parameters}`}${location.hash}`);
  show();
  listeners.forEach((changed) => changed());
}

/** Offer the names of identities and members. */
export function offer({ identities, members = [] }) {
  options("identity", identities.map((one) => one.name));
  options("member", members.map((one) => one.name));
  node("filter-member").parentElement.hidden = !members.length && !filter.member;
}

/** Fill a list of choices; what is chosen stays among them. */
function options(name, names) {
  const chosen = filter[name] && !names.includes(filter[name]) ? [filter[name]] : [];
  keyed(node(`filter-${name}`), ["", ...names, ...chosen], (value) => value, (value) => {
    const made = make("option", "", value ? short(value, 48) : "all");
    made.value = value;
    return made;
  }, () => {});
  show();
}

function show() {
  for (const name of NAMES) {
    const field = node(`filter-${name}`);
    if (field.value !== filter[name] && document.activeElement !== field) field.value = filter[name];
  }
  node("filters-clear").hidden = !isFiltered();
}

/** Make a link that filters by some values, and leads to the requests. */
export function filterLink(content, values, label) {
  const link = make("a", "filter", content);
  link.href = `?${new URLSearchParams(values)}#requests`;
  if (label) set(link, "title", label);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    filterBy(values);
    node("requests").focus();
    node("filters").scrollIntoView({ block: "start" });
  });
  return link;
}

/** Set up the fields, with what the page's address says. */
export function listenToFilters() {
  const given = new URLSearchParams(location.search);
  for (const name of NAMES) {
    filter[name] = (given.get(name) ?? "").slice(0, LONGEST);
    const field = node(`filter-${name}`);
    field.addEventListener(field.type === "search" ? "input" : "change", () => filterBy({ [name]: field.value.trim() }));
  }
  const outcomes = [...node("filter-outcome").options].map((one) => one.value);
  if (!outcomes.includes(filter.outcome)) filter.outcome = "";
  node("filters").addEventListener("submit", (event) => event.preventDefault());
  node("filters-clear").addEventListener("click", () => {
    for (const name of NAMES) node(`filter-${name}`).value = "";
    filterBy(Object.fromEntries(NAMES.map((name) => [name, ""])));
    node("filter-identity").focus();
  });
  show();
}
