// Making and renewing elements, and how figures are written. Text only ever becomes text: nothing is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "path", "line", "title"]);

/** An element: `h("p", {class: "soft"}, "words", child)`. Null children are left out. */
export function h(tag, attributes, ...children) {
  const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) made.append(child);
  }
  return made;
}

/** Let `target` have these children, keeping the elements that are there: focus and selection stay. */
export function renew(target, ...children) {
  const wanted = children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false);
  const nodes = wanted.map((one) => (one instanceof Node ? one : document.createTextNode(String(one))));
  renewAll(target, nodes);
}

function renewAll(target, wanted) {
  wanted.forEach((made, k) => {
    const there = target.childNodes[k];
    if (!there) target.append(made);
    else if (!alike(there, made)) there.replaceWith(made);
    else if (there.nodeType === Node.TEXT_NODE) {
      if (there.data !== made.data) there.data = made.data;
    } else renewOne(there, made);
  });
  while (target.childNodes.length > wanted.length) target.lastChild.remove();
}

function alike(there, made) {
  return there.nodeName === made.nodeName && (there.nodeType !== Node.ELEMENT_NODE || there.dataset.key === made.dataset.key);
}

function renewOne(there, made) {
  for (const { name } of [...there.attributes]) if (!made.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of made.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  renewAll(there, [...made.childNodes]);
}

// Figures

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  let amount = count, unit = 0;
  while (amount >= 1024 && unit < UNITS.length - 1) { amount /= 1024; unit += 1; }
  return `${unit ? amount.toFixed(amount < 10 ? 2 : 1) : Math.round(amount)} ${UNITS[unit]}`;
}

export const count = (value) => Number(value).toLocaleString("en");

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds > 1e8) return "never";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

export function when(text) {
  if (!text) return "–";
  const moment = new Date(text);
  return h("time", { datetime: text, title: text }, moment.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }));
}

export const share = (part, whole) => (whole > 0 ? part / whole : 0);
export const percent = (fraction) => `${(fraction * 100).toFixed(fraction > 0 && fraction < 0.1 ? 1 : 0)} %`;
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const list = (names) => (names.length ? names.join(", ") : "none");

// Pieces that several pages have

export const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), children);
export const state = (word, kind) => h("span", { class: `state ${kind}` }, word);
export const tile = (name, value, ...more) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value), more.map((one) => h("dd", {}, one)));
export const labels = (found) => !Object.keys(found).length ? "–" : Object.entries(found).sort().map(([key, value]) => h("span", { class: "label" }, value ? `${key}=${value}` : key));
export const none = (words) => h("p", { class: "none" }, words);
export const title = (words, lede) => [h("h1", { tabindex: "-1" }, words), lede ? h("p", { class: "lede" }, lede) : null];

/** `columns`: [heading, class?]; rows of cells, the first of which names the row. */
export function table(caption, columns, rows) {
  const head = h("tr", {}, columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)));
  const body = rows.map((row) =>
    h("tr", { "data-key": row.key }, row.map((one, k) => {
      const [name, kind] = columns[k];
      return k ? h("td", { class: kind, "data-label": name }, one) : h("th", { scope: "row", class: kind }, one);
    })));
  return h("div", { class: "scroll" }, h("table", { class: "rows" }, caption ? h("caption", {}, caption) : null, h("thead", {}, head), h("tbody", {}, body)));
}

/** A bar of parts, `[fraction, class]` each; `words` say the same. */
export function meter(parts, words) {
  let at = 0;
  const rects = parts.map(([fraction, kind]) => {
    const width = Math.max(0, Math.min(1 - at, fraction)) * 100;
    const made = h("rect", { x: (at * 100).toFixed(2), y: 0, width: width.toFixed(2), height: 8, class: kind });
    at += width / 100;
    return made;
  });
  return h("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": words }, rects);
}

/** How many chunks that want so many replicas have how many: rows by wish, columns by what there is. */
export function matrix(cells, name, words) {
  if (!cells.length) return none("There are no chunks on datanodes.");
  const wants = [...new Set(cells.map((one) => one.want))].sort((a, b) => a - b);
  const most = Math.max(...cells.map((one) => one[name]), ...wants);
  const columns = [...Array(most + 1).keys()];
  const cell = (want, number) => {
    const found = cells.find((one) => one.want === want && one[name] === number);
    const chunks = found ? found.chunks : 0;
    const kind = !chunks ? "nothing" : number >= want ? "good" : number === 0 ? "lost" : "short";
    return h("td", { class: kind, title: found ? bytes(found.size_bytes) : null }, count(chunks));
  };
  return h("div", { class: "scroll" }, h("table", { class: "matrix" },
    h("caption", {}, words),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "wanted"), columns.map((one) => h("th", { scope: "col" }, one)))),
    h("tbody", {}, wants.map((want) => h("tr", {}, h("th", { scope: "row" }, want), columns.map((number) => cell(want, number)))))));
}

export const chunkLink = (id) => h("a", { href: `#/garbage?chunk=${id}`, class: "mono" }, id);
export const fileLink = (path) => h("a", { href: `#/files?path=${encodeURIComponent(path)}&type=file` }, path);
