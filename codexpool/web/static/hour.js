// The last hour: figures, and a chart by minute. Requests grow upwards; refusals and failures downwards.

import { drawn, keyed, known, make, node, put, row, set } from "./nodes.js";
import { minuteOf, time } from "./times.js";
import { count, figure, listed, size } from "./words.js";

const TALL = { narrow: 172, wide: 216, from: 640 }; // In pixels, as below.
const EDGE = { left: 38, right: 2, top: 10, bottom: 24 };
const LEAST = { bar: 2, below: 16 }; // A single request stays visible beside many; so does the lower half.
const LABELS = 5;

const chart = { minutes: [], width: 0, svg: null };

const sum = (minutes, what) => minutes.reduce((total, minute) => total + minute[what], 0);
const words = ({ requests, refusals, failures }) =>
  listed([count(requests, "request"), count(refusals, "refusal"), count(failures, "failure")], ", ");

export function showHour({ hour, totals }) {
  const all = Object.fromEntries(["requests", "refusals", "failures"].map((what) => [what, sum(hour, what)]));
  const figures = [
    ["Requests", figure(all.requests), `${figure(totals.requests)} since the start`],
    ["Refusals", figure(all.refusals), `${figure(totals.sent_again)} sent again since the start`],
    ["Failures", figure(all.failures), `${figure(totals.failures)} since the start`],
    ["Under way", figure(totals.under_way), count(totals.sockets_open, "open socket")],
    ["Traffic", size(totals.bytes_out + totals.bytes_in), `${size(totals.bytes_out)} sent, ${size(totals.bytes_in)} received`],
  ];
  keyed(node("figures"), figures, ([title]) => title, createFigure, (own, [, value, note]) => {
    put(own.value, value);
    put(own.note, note);
  });
  const busiest = hour.reduce((best, one) => (one.requests > best.requests ? one : best), { requests: 0 });
  const most = busiest.requests ? ` Busiest minute: ${count(busiest.requests, "request")}, at ${minuteOf(busiest.at)}.` : "";
  const isEmpty = !all.requests && !all.refusals && !all.failures;
  put(node("chart-words"), isEmpty ? "No requests in the last hour." : `In the last hour: ${words(all)}.${most}`);
  chart.minutes = hour;
  draw();
  showTable();
}

function createFigure([title]) {
  const own = { value: make("span", "figure"), note: make("span", "note") };
  return known(make("div", "", make("dt", "", title), make("dd", "", own.value, own.note)), own);
}

function showTable() {
  if (!node("hour-details").open) return;
  const busy = chart.minutes.filter((one) => one.requests || one.refusals || one.failures).reverse();
  keyed(node("hour-rows"), busy, (one) => one.at, createMinute, (made, one) => {
    [one.requests, one.refusals, one.failures].forEach((number, index) => put(made.cells[index + 1], figure(number)));
  });
}

function createMinute(one) {
  const made = row(time(one.at, "minute"), "", "", "");
  [1, 2, 3].forEach((index) => made.cells[index].classList.add("number"));
  return made;
}

/** Round up to 1, 2, 4, 10, 20, 40, 100 …: half of each is whole, except of 1. */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, number)));
  return [1, 2, 4, 10].map((step) => step * power).find((one) => one >= number);
}

function draw() {
  const { minutes, width } = chart;
  if (!width || !minutes.length) return;
  if (chart.columns?.length !== minutes.length) prepare(minutes.length);
  const most = roundUp(Math.max(...minutes.map((one) => one.requests)));
  const least = Math.max(...minutes.map((one) => one.refusals + one.failures));
  const tall = width < TALL.from ? TALL.narrow : TALL.wide;
  const room = tall - EDGE.top - EDGE.bottom;
  const below = Math.max(LEAST.below, (room * least) / (most + least));
  const scale = (room - below) / most;
  const base = Math.round(EDGE.top + room - below);
  const step = (width - EDGE.left - EDGE.right) / minutes.length;
  change(chart.svg, { viewBox: `0 0 ${width} ${tall}`, width, height: tall });
  drawGrid(most, base, scale, width);
  const high = (many) => (many ? Math.max(LEAST.bar, many * scale) : 0);
  minutes.forEach((one, index) => {
    const { requests, refusals, failures, hatch, title } = chart.columns[index];
    const place = { x: EDGE.left + index * step + step * 0.12, width: step * 0.76 };
    const [rise, refused, failed] = [high(one.requests), high(one.refusals), high(one.failures)];
    change(requests, { ...place, y: base - rise, height: rise });
    change(refusals, { ...place, y: base + 1, height: refused });
    for (const bar of [failures, hatch]) change(bar, { ...place, y: base + 1 + refused, height: failed });
    put(title, `${minuteOf(one.at)}: ${words(one)}`);
  });
  chart.hours.forEach((label, index) => {
    const isLast = index === LABELS - 1;
    const place = Math.round((index * minutes.length) / (LABELS - 1));
    change(label, { x: isLast ? width - EDGE.right : EDGE.left + place * step, y: tall - 6 });
    put(label, isLast ? "now" : minuteOf(minutes[place].at));
  });
}

function drawGrid(most, base, scale, width) {
  [most, most / 2, 0].forEach((value, index) => {
    const y = Math.round(base - value * scale) + 0.5;
    const isShown = Number.isInteger(value);
    change(chart.lines[index], { x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y, opacity: isShown ? 1 : 0 });
    change(chart.labels[index], { x: EDGE.left - 8, y: y + 4 });
    put(chart.labels[index], isShown ? figure(value) : "");
  });
}

function change(made, attributes) {
  for (const [attribute, value] of Object.entries(attributes)) {
    set(made, attribute, typeof value === "number" ? Math.round(value * 100) / 100 : value);
  }
}

/** Create the elements of the chart for a number of minutes. */
function prepare(minutes) {
  chart.svg?.remove();
  chart.svg = drawn("svg", { role: "img", "aria-labelledby": "chart-words", focusable: "false" });
  const pattern = { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  const tile = drawn("pattern", pattern);
  tile.append(drawn("rect", { class: "hatch", width: 2, height: 5 }));
  const shared = drawn("defs");
  shared.append(tile);
  chart.svg.append(shared);
  const several = (many, create) => Array.from({ length: many }, (_, index) => chart.svg.appendChild(create(index)));
  chart.lines = several(3, (index) => drawn("line", { class: index === 2 ? "base" : "grid" }));
  chart.labels = several(3, () => drawn("text", { "text-anchor": "end" }));
  const anchor = (index) => (index === 0 ? "start" : index === LABELS - 1 ? "end" : "middle");
  chart.hours = several(LABELS, (index) => drawn("text", { "text-anchor": anchor(index) }));
  chart.columns = several(minutes, () => drawn("g")).map((column) => {
    const part = (tag, attributes) => column.appendChild(drawn(tag, attributes));
    return {
      title: part("title"),
      requests: part("rect", { class: "requests" }),
      refusals: part("rect", { class: "refusals" }),
      failures: part("rect", { class: "failures" }),
      hatch: part("rect", { fill: "url(#hatch)" }),
    };
  });
  node("chart").append(chart.svg);
}

/** Draw the chart at the available width, and its table when it is opened. */
export function listenToHour() {
  node("hour-details").addEventListener("toggle", showTable);
  new ResizeObserver(([{ contentRect }]) => {
    chart.width = Math.floor(contentRect.width);
    draw();
  }).observe(node("chart"));
}
