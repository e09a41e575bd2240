// Formats numbers and durations, and shortens texts.

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const numbers = new Intl.NumberFormat("en");

/** Escape invisible characters, so that no value can hide or reverse the text around it. */
export const visible = (text) =>
  text.replace(UNSEEN, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

export function short(text, length) {
  const signs = Array.from(text);
  return signs.length > length ? `${signs.slice(0, length - 1).join("")}…` : text;
}

const compacts = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const compact = (number) => compacts.format(number);
export const figure = (number) => numbers.format(number);
export const count = (number, one, many = `${one}s`) => `${figure(number)} ${number === 1 ? one : many}`;
export const listed = (parts, between = " · ") => parts.filter(Boolean).join(between);
export const spaced = (word) => word.replaceAll("_", " ");

/** Format a duration in its two largest units. */
export function span(seconds) {
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return listed([`${Math.floor(minutes / 60)} h`, minutes % 60 && `${minutes % 60} min`], " ");
  const hours = Math.round(minutes / 60);
  return listed([`${Math.floor(hours / 24)} d`, hours % 24 && `${hours % 24} h`], " ");
}

export function took(milliseconds) {
  if (milliseconds == null) return "";
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  return milliseconds < 60_000 ? `${(milliseconds / 1000).toFixed(1)} s` : span(milliseconds / 1000);
}

export function size(bytes) {
  if (bytes == null) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  return `${power ? (bytes / 1000 ** power).toFixed(1) : bytes} ${units[power]}`;
}

/** Name a window by its length. */
export function period(minutes) {
  if (minutes % 1440 === 0) return `${minutes / 1440} d`;
  return minutes % 60 === 0 ? `${minutes / 60} h` : `${minutes} min`;
}
