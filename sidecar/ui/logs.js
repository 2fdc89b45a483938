// This node's log as it is written: server-sent events, read with fetch because a token goes in a header.

import { Refused, headers } from "./api.js";
import { h } from "./dom.js";

export const heading = "Logs";
export const lede = "What this node writes to its log, as it comes. The pages of other nodes’ agents show theirs.";

const LINES_MAX = 500;
const AGAIN_MS = 1500;
const LEVELS = ["debug", "info", "warning", "error"];
const HIDDEN = new Set(["ts", "level", "event", "id", "node_id", "role", "logger"]);

export function open(main, asked, fresh) {
  const level = LEVELS.includes(asked.get("level")) ? asked.get("level") : "info";
  const grep = asked.get("grep") || "";
  const select = h("select", { id: "level" }, LEVELS.map((one) => h("option", { value: one, selected: one === level }, one)));
  const box = h("input", { id: "grep", type: "search", value: grep, autocomplete: "off", spellcheck: "false", maxlength: "200" });
  const hold = h("button", { type: "button", "aria-pressed": "false", click: () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    hold.textContent = held ? "Follow" : "Hold";
    if (!held) toEnd();
  } }, "Hold");
  const form = h("form", { submit: (event) => {
    event.preventDefault();
    location.hash = `#/logs?level=${select.value}&grep=${encodeURIComponent(box.value.trim())}`;
  } }, h("label", { for: "level" }, "Level and above"), select, h("label", { for: "grep" }, "Containing"), box, h("button", { type: "submit" }, "Show"), hold);
  const lines = h("ol", { class: "log", tabindex: "0", "aria-label": "Log records, the newest last", role: "log", "aria-live": "off" });
  main.append(h("section", { class: "card form-card", "aria-label": "Which records" }, form), lines);

  let held = false, last = "", failure = null, over = false;
  let abort = new AbortController();
  const toEnd = () => { lines.scrollTop = lines.scrollHeight; };

  function add(made) {
    lines.append(...made);
    while (lines.childElementCount > LINES_MAX) lines.firstElementChild.remove();
    if (!held) toEnd();
  }

  async function follow() {
    while (!over) {
      try {
        await once();
        failure = null;
      } catch (error) {
        if (over) return;
        failure = error instanceof Refused ? error : new Refused(0, { message: "This agent tells no more of the log", cause: String(error.message || error), next: "it is asked again" });
      }
      if (!over) await new Promise((done) => setTimeout(done, AGAIN_MS));
    }
  }

  async function once() {
    abort = new AbortController();
    const query = new URLSearchParams({ level, follow: "1" });
    if (grep) query.set("grep", grep);
    if (!last) query.set("since", "15m");
    const sent = headers({ Accept: "text/event-stream" });
    if (last) sent["Last-Event-ID"] = last;
    const response = await fetch(`../logs/stream?${query}`, { headers: sent, signal: abort.signal, cache: "no-store" });
    if (!response.ok) {
      const told = await response.json().catch(() => null);
      throw new Refused(response.status, (told && told.error) || { message: `HTTP ${response.status}`, cause: "", next: "" });
    }
    failure = null;
    fresh({ current: true, observed_by: "this node, as it happens" });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      const made = parts.map(event).filter(Boolean);
      if (made.length) add(made);
    }
  }

  /** One event of the stream as a line; comments (`: still here`) are none. */
  function event(part) {
    let kind = "", data = "";
    for (const line of part.split("\n")) {
      if (line.startsWith("id: ")) last = line.slice(4);
      else if (line.startsWith("event: ")) kind = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (!data) return null;
    let told;
    try { told = JSON.parse(data); } catch { return null; }
    return kind ? remark(kind, told) : record(told);
  }

  void follow();
  return {
    async round() { if (failure) throw failure; },
    stop() { over = true; abort.abort(); },
  };
}

function remark(kind, told) {
  const words = { dropped: `${told.dropped} records were lost: this page was too slow`, node: `the node: ${told.state}${told.detail ? ` (${told.detail})` : ""}` }[kind];
  const odd = kind !== "node" || told.state !== "ok";
  return h("li", { class: odd ? "remark odd" : "remark" }, `— ${words || `${kind} ${JSON.stringify(told)}`}`);
}

function record(told) {
  const fields = Object.entries(told).sort(([one], [other]) => (one === "request_id") - (other === "request_id"));
  const rest = fields.filter(([name, value]) => !HIDDEN.has(name) && value !== "" && value !== null)
    .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(" ");
  const at = String(told.ts || "");
  return h("li", { class: told.level },
    h("time", { class: "at", datetime: at, title: at }, at.slice(11, 23)), h("span", { class: "level" }, told.level || ""),
    h("span", { class: "what" }, h("span", { class: "event" }, told.event || ""), rest ? h("span", { class: "rest" }, ` ${rest}`) : null));
}
