// Draws the chart of the last hour: a column for each minute.

import { drawn, node, put, set } from "./nodes.js";
import { minuteOf } from "./times.js";
import { figure } from "./words.js";

const TALL = { narrow: 188, wide: 236, from: 640 }; // In pixels, as below.
const EDGE = { left: 38, right: 2, top: 10, bottom: 24 };
const LEAST = { bar: 2, trouble: 7 }; // One request stays visible beside many; one refusal can be seen from afar.
const MOVES = 14; // The height of the lane of marks, below everything else.
const LABELS = 5;
const SERIES = 7; // Six identities, and the rest.

const chart = { minutes: [], series: [], title: () => "", width: 0, svg: null };

/** Show minutes; `series` are the requests of each by identity, and `title` describes one. */
export function showBars(minutes, series, title) {
  Object.assign(chart, { minutes, series, title });
  draw();
}

/** Draw the chart again with another width. */
export function change(width) {
  chart.width = width;
  draw();
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
  const troubles = Math.max(...minutes.map((one) => one.refusals + one.failures));
  const tall = width < TALL.from ? TALL.narrow : TALL.wide;
  const room = tall - EDGE.top - EDGE.bottom - MOVES;
  const below = Math.max(3 * LEAST.trouble, Math.min(room / 3, (room * troubles) / (most + troubles)));
  const scale = (room - below) / most;
  const base = Math.round(EDGE.top + room - below);
  const step = (width - EDGE.left - EDGE.right) / minutes.length;
  place(chart.svg, { viewBox: `0 0 ${width} ${tall}`, width, height: tall });
  drawGrid(most, base, scale, width);
  const depth = (many) => (many ? Math.max(LEAST.trouble, (many * below) / Math.max(troubles, 3)) : 0);
  minutes.forEach((one, index) => {
    const at = { x: EDGE.left + index * step + step * 0.12, width: step * 0.76 };
    drawColumn(chart.columns[index], index, at, base, scale);
    const { refusals, failures, hatch, moves, title } = chart.columns[index];
    const [refused, failed] = [depth(one.refusals), depth(one.failures)];
    place(refusals, { ...at, y: base + 1, height: refused });
    for (const bar of [failures, hatch]) place(bar, { ...at, y: base + 1 + refused, height: failed });
    const [x, y] = [EDGE.left + (index + 0.5) * step, tall - EDGE.bottom - MOVES / 2 + 2].map((number) => number.toFixed(1));
    set(moves, "d", one.moves ? `M${x} ${y}m0-5 5 5-5 5-5-5z` : "");
    put(title, chart.title(one, index));
  });
  drawTimes(step, tall);
}

/** Draw the requests of a minute, one identity upon the other. */
function drawColumn({ requests }, index, at, base, scale) {
  let from = base;
  requests.forEach((bar, number) => {
    const one = chart.series[number];
    const many = one?.requests[index] ?? 0;
    const height = many ? Math.max(LEAST.bar, many * scale) : 0;
    from -= height;
    set(bar, "class", `of-${one?.slot ?? "rest"}`);
    place(bar, { ...at, y: from, height });
  });
}

function drawTimes(step, tall) {
  const { minutes, width } = chart;
  chart.hours.forEach((label, index) => {
    const isLast = index === LABELS - 1;
    const minute = Math.round((index * minutes.length) / (LABELS - 1));
    place(label, { x: isLast ? width - EDGE.right : EDGE.left + minute * step, y: tall - 6 });
    put(label, isLast ? "now" : minuteOf(minutes[minute].at));
  });
}

function drawGrid(most, base, scale, width) {
  [most, most / 2, 0].forEach((value, index) => {
    const y = Math.round(base - value * scale) + 0.5;
    const isShown = Number.isInteger(value);
    place(chart.lines[index], { x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y, opacity: isShown ? 1 : 0 });
    place(chart.labels[index], { x: EDGE.left - 8, y: y + 4 });
    put(chart.labels[index], isShown ? figure(value) : "");
  });
}

function place(made, attributes) {
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
      requests: Array.from({ length: SERIES }, () => part("rect", { class: "of-rest" })),
      refusals: part("rect", { class: "refusals" }),
      failures: part("rect", { class: "failures" }),
      hatch: part("rect", { fill: "url(#hatch)" }),
      moves: part("path", { class: "moves" }),
    };
  });
  node("chart").append(chart.svg);
}
