// A small plot: one line over the last minutes, with its figures in words beside it.

import { age, h } from "./dom.js";

const WIDTH = 300, HEIGHT = 88;

/** `points`: [seconds, value], the oldest first; `span`: seconds that the plot is wide; `write`: how a value is written. */
export function plot(name, points, span, write) {
  const known = points.filter(([, value]) => value !== null);
  const now = points.length ? points[points.length - 1][0] : 0;
  const values = known.map(([, value]) => value);
  const most = niceTop(Math.max(0, ...values), /B/.test(write(1)) ? 2 : 10);
  const x = (at) => (WIDTH * (1 - (now - at) / span)).toFixed(1);
  const y = (value) => (HEIGHT * (1 - value / most)).toFixed(1);
  const line = known.map(([at, value], k) => `${k ? "L" : "M"}${x(at)} ${y(value)}`).join("");
  const area = known.length > 1 ? `${line}L${x(known[known.length - 1][0])} ${HEIGHT}L${x(known[0][0])} ${HEIGHT}Z` : "";
  const last = values.length ? write(values[values.length - 1]) : "–";
  const words = values.length ? `${name}: ${last} now, between ${write(Math.min(...values))} and ${write(Math.max(...values))}` : `${name}: not known yet`;
  return h("figure", { class: "card plot" },
    h("figcaption", {}, h("span", {}, name), h("b", {}, last)),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words },
      h("line", { class: "rule", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }), h("line", { class: "rule", x1: 0, x2: WIDTH, y1: 0, y2: 0 }),
      area ? h("path", { class: "area", d: area }) : null, line ? h("path", { class: "line", d: line }) : null),
    h("p", { class: "ends" }, h("span", {}, `${age(span)} ago`), h("span", {}, `top ${write(most)}`), h("span", {}, "now")));
}

/** The least round figure that is not below `value`: a power of two of bytes, else 1, 2, 5 times a power of ten. */
function niceTop(value, base) {
  if (value <= 0) return 1;
  if (base === 2) return 2 ** Math.ceil(Math.log2(value));
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value) || value;
}
