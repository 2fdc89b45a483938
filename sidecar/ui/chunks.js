// How well every chunk is kept, what lacks replicas, and what is being done about it.

import { maybe } from "./api.js";
import { bytes, card, chunkLink, count, fileLink, h, list, matrix, meter, none, percent, renew, state, table, tile } from "./dom.js";

export const heading = "Chunks and repair";
export const lede = "Files are cut into chunks, each with several replicas on different nodes. What lacks some is made anew by itself.";

export function open(main, _asked, fresh) {
  const place = h("div", {});
  main.append(place);
  return {
    async round() {
      const [kept, repair, balance] = await Promise.all([
        maybe("../v1/cluster/durability"), maybe("../v1/repair"), maybe("../v1/balance"),
      ]);
      if (kept || repair) fresh(kept || repair);
      renew(place, page(kept, repair, balance));
    },
  };
}

function page(kept, repair, balance) {
  if (!kept && !repair) return card("No leader", none("Only a leader knows which replicas can be read; none answers now."));
  return [
    h("dl", { class: "tiles" },
      kept ? tile("Chunks", count(kept.chunks), `and ${count(kept.inline_chunks)} in the metadata`) : null,
      kept ? tile("Lack replicas", count(kept.under_replicated)) : null,
      kept ? tile("Cannot be read", count(kept.missing)) : null,
      repair ? tile("Repair", repair.running ? `${count(repair.running)} copied now` : repair.pending ? "waits" : "nothing to do", `${count(repair.pending)} pending`) : null,
      repair ? tile("Made anew", count(repair.done), `${count(repair.failed)} failed, since this leader began`) : null),
    h("div", { class: "grid" },
      kept ? card("Replicas", matrix(kept.copies, "live", "Chunks by replicas wanted (rows) and readable now (columns)")) : null,
      kept ? card("Spread", h("h3", {}, "Zones"), matrix(kept.zones, "number", "Chunks by replicas wanted (rows) and zones they lie in (columns)"),
        h("h3", {}, "Hosts"), matrix(kept.hosts, "number", "The same by hosts")) : null),
    kept ? card("Chunks that lack replicas", problems(kept)) : null,
    balance ? card("Balance", balanced(balance)) : null,
  ];
}

function problems(kept) {
  if (!kept.problems.length) return none("None.");
  return table(kept.problems.length >= 100 ? "The first 100, the most endangered first" : null,
    [["Chunk"], ["Size", "n"], ["Wanted", "n"], ["Readable on"], ["Out of reach or damaged on"], ["Files"]],
    kept.problems.map((one) => [
      chunkLink(one.chunk), bytes(one.size_bytes), one.want,
      one.live.length ? list(one.live) : state("nowhere", "bad"), list(one.others),
      one.paths.map((path) => h("div", {}, fileLink(path))),
    ]));
}

function balanced(told) {
  const words = { off: "Off: new nodes fill by new chunks only.", running: "Replicas are moved to emptier nodes.", paused: "Paused." }[told.state] || told.state;
  const widest = Math.max(1e-12, ...told.nodes.map((one) => one.used_share || 0));
  return [
    h("p", {}, `${words} ${count(told.moving)} under way, ${count(told.moved)} moved (${bytes(told.moved_bytes)}), ${count(told.failed)} failed; to be even, ${bytes(told.excess_bytes)} would move.`),
    table(null, [["Node"], ["Used", "n"], ["Of", "n"], ["Share", "n"], ["Beside the fullest"], ["Takes part"]], told.nodes.map((one) => [
      one.node_id, bytes(one.used_bytes), bytes(one.room_bytes), one.used_share === null ? "–" : percent(one.used_share),
      h("div", { class: "wide" }, meter([[(one.used_share || 0) / widest, ""]], percent(one.used_share || 0))), one.takes_part ? "yes" : "no",
    ])),
  ];
}
