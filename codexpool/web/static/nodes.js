// Creates and changes elements. Texts become text nodes only, so no value can add markup.

import { short } from "./words.js";

export const node = (id) => document.getElementById(id);

/** Create an element with other elements and texts in it. */
export function make(tag, names = "", ...content) {
  const made = document.createElement(tag);
  if (names) made.className = names;
  made.append(...content);
  return made;
}

/** Create an SVG element. */
export function drawn(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

/** Create an element for a foreign text: its direction does not affect the text around it. */
export const name = (text, length = 80) => make("bdi", "", short(text, length));
export const code = (text, length = 300) => make("bdi", "code", short(text, length));

export function put(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** Set a text, and hide its element if the text is empty. */
export function putOrHide(where, text) {
  put(where, text);
  where.hidden = !text;
}

export function set(where, attribute, value) {
  if (where.getAttribute(attribute) !== String(value)) where.setAttribute(attribute, value);
}

/** Create a table row. Cells are elements or texts; the first is the row's header. */
export function row(...cells) {
  const made = make("tr");
  made.setAttribute("role", "row"); // Narrow pages show rows as blocks; for screen readers they stay rows.
  cells.forEach((cell, index) => {
    const place = make(index ? "td" : "th", "", cell);
    if (!index) place.scope = "row";
    place.setAttribute("role", index ? "cell" : "rowheader");
    made.append(place);
  });
  return made;
}

const children = new WeakMap();
const parts = new WeakMap();

/** Remember the parts of an element that change; `keyed` passes them to `update`. */
export function known(made, own) {
  parts.set(made, own);
  return made;
}

export const partsOf = (made) => parts.get(made) ?? made;

/**
 * Give an element one child for each item of a list, identified by a key. Existing children are updated in place by
 * `update(parts, item, child)`. With `steady` they also keep their order, after the new ones.
 */
export function keyed(parent, items, keyOf, create, update, steady = false) {
  const there = children.get(parent) ?? new Map();
  const wanted = new Map();
  for (const item of items) if (!wanted.has(keyOf(item))) wanted.set(keyOf(item), item);
  for (const [key, child] of there) {
    if (wanted.has(key)) continue;
    child.remove();
    there.delete(key);
  }
  let keys = [...wanted.keys()];
  if (steady) {
    const follows = (a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);
    const old = [...there].sort(([, a], [, b]) => follows(a, b)).map(([key]) => key);
    keys = [...keys.filter((key) => !there.has(key)), ...old];
  }
  const focused = document.activeElement;
  let next = parent.firstElementChild;
  for (const key of keys) {
    const child = there.get(key) ?? create(wanted.get(key));
    there.set(key, child);
    update(partsOf(child), wanted.get(key), child);
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  children.set(parent, there);
}

/** Show texts as the items of a list, and hide the list if there are none. */
export function texts(where, lines, style = () => {}) {
  const items = lines.map((text, index) => ({ text, index }));
  keyed(where, items, (item) => item.index, () => make("li"), (made, item) => {
    put(made, item.text);
    style(made, item.text);
  });
  where.hidden = !lines.length;
}
