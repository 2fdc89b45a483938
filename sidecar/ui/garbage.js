// The garbage collection: what it is doing, why each byte is there, and one chunk explained.

import { get, maybe } from "./api.js";
import { age, bytes, card, chunkLink, count, fileLink, h, list, meter, none, plural, renew, share, state, table, tile, when } from "./dom.js";

export const heading = "Garbage";
export const lede = "A chunk that nothing refers to is left alone for a grace, then condemned, then lies in quarantine, and only then goes.";

const CLASSES = [
  ["referenced_bytes", "in files", ""], ["uploading_bytes", "being written", "k2"], ["orphan_bytes", "orphans in their grace", "k3"],
  ["condemned_bytes", "condemned", "k4"], ["quarantined_bytes", "in quarantine", "k5"], ["unaccounted_bytes", "headers and unknown", "k6"],
];

export function open(main, asked, fresh) {
  const chunk = (asked.get("chunk") || "").trim().toLowerCase();
  const box = h("input", { id: "chunk", value: chunk, autocomplete: "off", spellcheck: "false", maxlength: "32", class: "mono", placeholder: "32 hex digits, as dfsctl locate shows them" });
  const form = h("form", { submit: (event) => {
    event.preventDefault();
    location.hash = `#/garbage?chunk=${encodeURIComponent(box.value.trim())}`;
  } }, h("label", { for: "chunk" }, "Explain a chunk"), box, h("button", { type: "submit" }, "Explain"));
  const explained = h("div", {});
  const place = h("div", {});
  main.append(h("section", { class: "card form-card", "aria-label": "Explain a chunk" }, form), explained, place);
  return {
    async round() {
      const [gc, waiting] = await Promise.all([get("../v1/gc"), maybe("../v1/gc/candidates?limit=50")]);
      fresh(gc);
      renew(place, page(gc, waiting));
      if (chunk) renew(explained, await explain(chunk));
    },
  };
}

async function explain(chunk) {
  try {
    return story(await get(`../v1/gc/explain/${encodeURIComponent(chunk)}`));
  } catch (error) {
    if (!error.status || error.status === 401) throw error;
    return card("This chunk", h("p", {}, state(error.words || error.message, "warn")));
  }
}

const KINDS = { referenced: "ok", inline: "ok", uploading: "ok", orphan: "warn", condemned: "warn", quarantined: "warn", stray: "warn", unknown: "off" };
const MEANING = {
  referenced: "Files refer to it: it stays.", inline: "Its bytes are in the metadata; files refer to it.",
  uploading: "A client is writing it: it stays while the upload is open.", orphan: "Nothing refers to it. It is left alone until its grace is over.",
  condemned: "Nothing refers to it, its grace is over, and datanodes were told to put it away.",
  quarantined: "It was deleted and can still be brought back: dfsctl gc quarantine restore.",
  stray: "It lies on a disk, and no table knows it; the next cycle looks at it.", unknown: "No table and no datanode that answers knows it.",
};

function story(told) {
  const row = (name, value) => (value === null ? null : [h("dt", {}, name), h("dd", {}, value)]);
  const gone = told.deleted_by ? `${told.deleted_by}, at index ${count(told.deleted_at_index || 0)}` : null;
  return card(`Chunk ${told.chunk}`, h("dl", { class: "story" },
    row("State", [state(told.state, KINDS[told.state] || "off"), ` ${MEANING[told.state] || ""}`]),
    row("Size", told.length ? bytes(told.length) : null),
    row("Files that refer to it", told.referenced_by.length ? told.referenced_by.map((path) => h("div", {}, fileLink(path))) : null),
    row("Last referred to by", told.last_referenced_by.length ? list(told.last_referenced_by) : null),
    row("Deleted by", gone),
    row("An orphan since", told.orphan_since ? when(told.orphan_since) : null),
    row("Lies on", list(told.seen_on)),
    row("In quarantine on", told.quarantined_on.length ? list(told.quarantined_on) : null),
    row("What keeps it", told.held_by),
    row("Goes at the earliest", told.earliest_sweep_at ? when(told.earliest_sweep_at) : null)));
}

function page(gc, waiting) {
  return [
    h("dl", { class: "tiles" },
      tile("Collection", gc.paused ? "paused" : gc.state, gc.phase && gc.phase !== "none" ? `phase ${gc.phase}` : `a cycle every ${age(gc.interval_seconds)}`),
      tile("Orphans", count(gc.candidates), `grace ${age(gc.grace_seconds)}`),
      tile("Condemned", count(gc.condemned)),
      tile("In quarantine", count(gc.quarantined)),
      tile("Held", count(gc.held), "until an operator releases them")),
    card("The last cycle", cycle(gc.last_cycle)),
    card("Why each byte is there", accounting(gc.accounting)),
    card("Orphans", waiting === null ? none("Only a leader lists them; none answers now.") : orphans(waiting)),
  ];
}

function cycle(told) {
  if (!told) return none("None yet since this leader began.");
  const good = told.outcome === "done";
  return h("p", {}, state(`Cycle ${told.cycle}: ${told.outcome}`, good ? "ok" : "warn"),
    ` after ${age(told.seconds)}. It marked ${plural(told.marked, "chunk")} that are needed and found ${count(told.gathered)} on datanodes; ` +
    `${plural(told.candidates, "was an orphan", "were orphans")}, ${count(told.condemned)} condemned, ${count(told.deleted)} deleted.`,
    told.void_nodes.length ? ` Not asked, so nothing of theirs was judged: ${list(told.void_nodes)}.` : "");
}

function accounting(nodes) {
  if (!nodes.length) return none("Known after the first cycle of this leader.");
  const most = Math.max(1, ...nodes.map((one) => CLASSES.reduce((sum, [name]) => sum + one[name], 0)));
  return [
    table(null, [["Node"], ["Bytes of chunks"], ...CLASSES.map(([, words]) => [words, "n"])], nodes.map((one) => [
      one.node_id,
      h("div", { class: "wide" }, meter(CLASSES.map(([name, , kind]) => [share(one[name], most), kind]), `${bytes(one.referenced_bytes)} in files`)),
      ...CLASSES.map(([name]) => bytes(one[name])),
    ])),
    h("ul", { class: "legend" }, CLASSES.map(([, words, kind]) => h("li", {}, h("svg", { class: "meter", viewBox: "0 0 10 10", "aria-hidden": "true" }, h("rect", { width: 10, height: 10, class: kind })), words))),
  ];
}

function orphans(told) {
  if (!told.chunks.length) return none("None: everything on the disks is wanted.");
  return table(told.next ? "The first 50" : null, [["Chunk"], ["Size", "n"], ["Last referred to by"], ["On"], ["What keeps it"], ["Goes at the earliest"]],
    told.chunks.map((one) => [chunkLink(one.chunk), bytes(one.length), list(one.last_referenced_by), list(one.seen_on), one.held_by || "–", when(one.earliest_sweep_at)]));
}
