// The last hour: figures, and a chart by minute. Requests grow upwards, by identity; below are refusals and failures,
// and a mark for each minute in which sessions moved.

import { change, showBars } from "./chart.js";
import { drawn, keyed, known, make, name, node, put, row } from "./nodes.js";
import { minuteOf, time } from "./times.js";
import { count, figure, listed, short, size } from "./words.js";

const COLOURS = 6; // Of identities, in chart.css.
const COUNTED = ["requests", "refusals", "failures", "moves"];
const REST = "rest"; // The class of all other requests.

const slots = new Map(); // The colour of each identity: it keeps it while others overtake it.
const hour = { minutes: [], series: [] };

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const total = (minutes, what) => sum(minutes.map((minute) => minute[what] ?? 0));
const words = ({ requests, refusals, failures, moves }) =>
  listed([count(requests, "request"), count(refusals, "refusal"), count(failures, "failure"), count(moves, "move")], ", ");

export function showHour({ hour: minutes, hour_by_identity: busiest = [], totals }) {
  const all = Object.fromEntries(COUNTED.map((what) => [what, total(minutes, what)]));
  hour.minutes = minutes;
  hour.series = seriesOf(minutes, busiest);
  showFigures(all, totals);
  showLegend(all);
  put(node("chart-words"), inWords(minutes, all));
  showBars(minutes, hour.series, (one, index) => `${minuteOf(one.at)}: ${words(one)}${whose(index)}`);
  showTable();
}

/** Return the requests of each minute by identity; those that are not among the busiest are the rest. */
function seriesOf(minutes, busiest) {
  const shown = busiest.slice(0, COLOURS);
  for (const known of [...slots.keys()]) if (!shown.some((one) => one.identity === known)) slots.delete(known);
  for (const { identity } of shown) {
    const free = Array.from({ length: COLOURS }, (_, slot) => slot).find((slot) => ![...slots.values()].includes(slot));
    if (!slots.has(identity)) slots.set(identity, free);
  }
  const series = shown
    .map(({ identity, requests }) => ({ identity, slot: slots.get(identity), requests }))
    .sort((one, other) => one.slot - other.slot);
  const rest = minutes.map((one, index) => Math.max(0, one.requests - sum(series.map(({ requests }) => requests[index] ?? 0))));
  return [...series, { identity: null, slot: REST, requests: rest }];
}

const nameOf = ({ identity }) => identity ?? (hour.series.length > 1 ? "others" : "requests");

/** Say whose the requests of a minute are. */
function whose(index) {
  const parts = hour.series.map((one) => one.requests[index] && `${short(nameOf(one), 24)} ${figure(one.requests[index])}`);
  return hour.series.length > 1 && parts.some(Boolean) ? ` (${listed(parts, ", ")})` : "";
}

function inWords(minutes, all) {
  if (!sum(Object.values(all))) return "No requests in the last hour.";
  const busiest = minutes.reduce((best, one) => (one.requests > best.requests ? one : best), { requests: 0 });
  const most = busiest.requests ? ` Busiest minute: ${count(busiest.requests, "request")}, at ${minuteOf(busiest.at)}.` : "";
  return `In the last hour: ${words(all)}.${most}`;
}

function showFigures(all, totals) {
  const figures = [
    ["Requests", figure(all.requests), `${figure(totals.requests)} since the start`],
    ["Refusals", figure(all.refusals), `${figure(totals.sent_again)} sent again since the start`],
    ["Failures", figure(all.failures), `${figure(totals.failures)} since the start`],
    ["Moves of sessions", figure(all.moves), totals.moves === undefined ? "" : `${figure(totals.moves)} since the start`],
    ["Under way", figure(totals.under_way), count(totals.sockets_open, "open socket")],
    ["Traffic", size(totals.bytes_out + totals.bytes_in), `${size(totals.bytes_out)} sent, ${size(totals.bytes_in)} received`],
  ];
  keyed(node("figures"), figures, ([title]) => title, createFigure, (own, [, value, note]) => {
    put(own.value, value);
    put(own.note, note);
  });
}

function createFigure([title]) {
  const own = { value: make("span", "figure"), note: make("span", "note") };
  return known(make("div", "", make("dt", "", title), make("dd", "", own.value, own.note)), own);
}

function showLegend(all) {
  const requests = hour.series.map((one) => ({ kind: `of-${one.slot}`, title: nameOf(one), many: sum(one.requests) }));
  const marks = ["refusals", "failures", "moves"].map((kind) => ({ kind, title: kind, many: all[kind] }));
  const items = [...requests.filter((one) => one.many), ...marks];
  keyed(node("legend"), items, (one) => `${one.kind} ${one.title}`, createEntry, (own, one) => put(own.many, figure(one.many)));
}

function createEntry({ kind, title }) {
  const swatch = drawn("svg", { class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true", focusable: "false" });
  if (kind === "moves") swatch.append(drawn("path", { class: "moves", d: "M6 0 12 6 6 12 0 6z" }));
  else swatch.append(drawn("rect", { class: kind, width: 12, height: 12, rx: 2 }));
  if (kind === "failures") swatch.append(drawn("path", { class: "hatch", d: "M0 12 12 0M-3 9 9-3M3 15 15 3" }));
  const own = { many: make("b") };
  return known(make("li", "", swatch, make("span", "", name(title, 32), " ", own.many)), own);
}

function showTable() {
  if (!node("hour-details").open) return;
  const rows = hour.minutes.map((one, index) => ({ ...one, by: whose(index).slice(2, -1) })).reverse();
  const busy = rows.filter((one) => one.requests || one.refusals || one.failures || one.moves);
  keyed(node("hour-rows"), busy, (one) => one.at, createMinute, (own, one) => {
    [...COUNTED.map((what) => figure(one[what] ?? 0)), one.by].forEach((text, index) => put(own[index], text));
  });
}

function createMinute(one) {
  const own = [...COUNTED, ""].map(() => make("span"));
  const counts = COUNTED.map((what, index) => make("span", "", own[index], make("span", "unit", ` ${what}`)));
  const made = row(time(one.at, "minute"), ...counts, own.at(-1));
  counts.forEach((_, index) => made.cells[index + 1].classList.add("number"));
  return known(made, own);
}

/** Draw the chart at the available width, and its table when it is opened. */
export function listenToHour() {
  node("hour-details").addEventListener("toggle", showTable);
  new ResizeObserver(([{ contentRect }]) => change(Math.floor(contentRect.width))).observe(node("chart"));
}
