// Which page is shown, and its rounds: a page is made once, then renewed every two seconds while somebody looks.

import { Refused, get, nameOf, token } from "./api.js";
import { age, h, renew, title } from "./dom.js";
import * as chunks from "./chunks.js";
import * as files from "./files.js";
import * as garbage from "./garbage.js";
import * as logs from "./logs.js";
import * as metrics from "./metrics.js";
import * as nodes from "./nodes.js";
import * as overview from "./overview.js";

const PAGES = [
  ["", "Overview", overview], ["nodes", "Nodes", nodes], ["chunks", "Chunks", chunks], ["garbage", "Garbage", garbage],
  ["files", "Files", files], ["logs", "Logs", logs], ["metrics", "Metrics", metrics],
];
const ROUND_MS = 2000;
const element = (id) => document.getElementById(id);

let shown = { stop() {}, round: async () => {} };
let generation = 0;

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: PAGES.find(([name]) => name === path) || PAGES[0], asked: new URLSearchParams(query) };
}

function show(moved) {
  if (location.hash === "#main") { element("main").focus(); return; }
  const { page: [name, words, made], asked } = route();
  shown.stop();
  generation += 1;
  document.title = `${words} · QuorumFS`;
  renew(element("pages"), PAGES.map(([path, label]) =>
    h("li", {}, h("a", { href: `#/${path}`, "aria-current": path === name ? "page" : null }, label))));
  document.querySelector("nav [aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  const main = element("main");
  main.replaceChildren(...title(made.heading, made.lede).filter(Boolean));
  main.classList.remove("dim");
  fresh(null);
  shown = { stop() {}, ...made.open(main, asked, fresh) };
  if (moved) main.querySelector("h1").focus();
  void rounds(generation);
}

async function rounds(mine) {
  while (mine === generation) {
    if (!document.hidden) await once(mine);
    await new Promise((done) => { setTimeout(done, ROUND_MS); wake = done; });
  }
}
let wake = () => {};

async function once(mine) {
  try {
    await shown.round();
    if (mine === generation) failed(null);
  } catch (error) {
    if (mine !== generation) return;
    if (!(error instanceof Refused)) throw error;
    failed(error);
  }
}

function failed(error) {
  const line = element("failure");
  line.hidden = error === null;
  element("main").classList.toggle("dim", error !== null);
  if (error === null) return;
  if (line.textContent !== error.words) line.textContent = error.words;
  if (error.status === 401) askForToken("This agent wants to know who looks: paste a token, as dfsctl auth token create makes them.");
}

/** How old what is shown is, and whether it is still true; null: nothing is known yet. */
function fresh(told) {
  const line = element("fresh");
  if (told === null) { line.textContent = ""; return; }
  line.classList.toggle("old", told.current === false);
  const words = told.current === false
    ? `not current: as of ${age(told.age_seconds)} ago, by ${nameOf(told.observed_by)}`
    : `as told by ${nameOf(told.observed_by)}`;
  if (line.textContent !== words) line.textContent = words;
  line.title = told.reason || "";
}

// The token

function askForToken(why) {
  element("token-why").textContent = why;
  if (!element("token-panel").hidden) return;
  panel(true);
  element("token").focus();
}

function panel(open) {
  element("token-panel").hidden = !open;
  element("token-button").setAttribute("aria-expanded", String(open));
}

element("token-button").addEventListener("click", () => {
  const open = element("token-panel").hidden;
  element("token-why").textContent = token.get() ? "This tab has a token." : "This tab has no token; on the node’s own machine none is needed.";
  panel(open);
  if (open) element("token").focus();
});
element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(element("token").value.trim());
  element("token").value = "";
  panel(false);
  show(true);
});
element("token-forget").addEventListener("click", () => { token.set(""); panel(false); show(true); });

// Whose pages these are

async function introduce() {
  try {
    const told = await get("../status");
    element("where").textContent = `${told.node_id} · ${told.role}`;
  } catch { /* the page's own round says it */ }
}

window.addEventListener("hashchange", () => show(true));
document.addEventListener("visibilitychange", () => { if (!document.hidden) wake(); });
void introduce();
metrics.begin();
show(false);
