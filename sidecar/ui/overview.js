// The whole cluster at a glance: is it well, who leads, how much room is left, how well is everything kept.

import { get, maybe } from "./api.js";
import { age, bytes, card, count, h, matrix, meter, none, percent, plural, renew, share, state, table, tile, when } from "./dom.js";

export const heading = "Overview";
export const lede = "";

export function open(main, _asked, fresh) {
  const place = h("div", {});
  main.append(place);
  return {
    async round() {
      const [cluster, status, raft, durability] = await Promise.all([
        get("../v1/cluster"), get("../status"), maybe("../v1/raft"), maybe("../v1/cluster/durability"),
      ]);
      fresh(cluster);
      renew(place, page(cluster, status, raft, durability));
    },
  };
}

function page(cluster, status, raft, durability) {
  const leads = status.leader && { ...status.leader, term: status.term }; // now, not what an old answer still says
  const quorum = quorumOf(cluster, raft, leads);
  const troubles = troublesOf(cluster, leads, quorum);
  return [
    verdict(troubles),
    h("dl", { class: "tiles" },
      tile("Leader", leads ? leads.node_id : "none", leads ? `term ${leads.term}` : "an election, or no majority"),
      tile("Quorum", `${quorum.there} of ${quorum.voters}`, quorum.words),
      cluster.authoritative ? tile("Datanodes", `${alive(cluster.datanodes)} of ${cluster.datanodes.length}`, "alive")
        : tile("Datanodes", count(cluster.datanodes.length), "only a leader hears them"),
      tile("Files", count(cluster.files), plural(cluster.directories, "directory", "directories")),
      tile("Chunks", count(cluster.chunks.total), durability ? `and ${count(durability.inline_chunks)} in the metadata` : null),
      cluster.authoritative ? tile("Free room", bytes(cluster.capacity.free_bytes), room(cluster.capacity)) : tile("Free room", "not known", "only a leader hears of it")),
    h("div", { class: "grid" },
      card("How well chunks are kept", durability
        ? [durability.current ? null : h("p", { class: "soft" }, `As it was ${age(durability.age_seconds)} ago.`),
          matrix(durability.copies, "live", "Chunks by replicas wanted (rows) and readable (columns)")]
        : none("Nobody can tell while no coordinator leads.")),
      card("Alarms", cluster.authoritative || cluster.alarms.length ? alarms(cluster.alarms) : none("Only a leader raises them."))),
    card("Nodes", nodes(cluster, leads)),
  ];
}

const alive = (nodes) => nodes.filter((one) => one.state === "alive").length;

function quorumOf(cluster, raft, leads) {
  const members = raft ? raft.members.filter((one) => !one.learner).map((one) => one.node_id) : cluster.coordinators.map((one) => one.node_id);
  const heard = cluster.coordinators.filter((one) => members.includes(one.node_id) && one.state === "alive").length;
  const there = leads ? Math.max(heard, 1) : heard;
  const majority = Math.floor(members.length / 2) + 1;
  const spare = there - majority;
  const words = !leads ? `${majority} are needed, and one that leads`
    : spare > 0 ? `may lose ${plural(spare, "more", "more")}` : spare === 0 ? "may lose no more" : "no majority";
  return { voters: members.length, there, spare, words };
}

function troublesOf(cluster, leads, quorum) {
  const found = [];
  if (!leads) found.push(["bad", "No coordinator leads: nothing can be written, and reads are as old as they say."]);
  if (!cluster.current) found.push(["warn", `What is shown is ${age(cluster.age_seconds)} old: ${cluster.reason}`]);
  if (leads && quorum.spare < 1 && quorum.voters > 2) found.push(["warn", "One more coordinator lost, and nothing can be written."]);
  for (const one of [...cluster.coordinators, ...cluster.datanodes]) {
    if (one.state === "dead") found.push(["bad", `${one.node_id} is dead: last heard ${age(one.heartbeat_age_seconds)} ago.`]);
    else if (one.state === "suspect") found.push(["warn", `${one.node_id} was last heard ${age(one.heartbeat_age_seconds)} ago.`]);
  }
  const { missing, corrupt, under_replicated: lacking } = cluster.chunks;
  if (missing) found.push(["bad", `${plural(missing, "chunk has", "chunks have")} no readable replica.`]);
  if (corrupt) found.push(["warn", `${plural(corrupt, "chunk has", "chunks have")} a damaged replica.`]);
  if (lacking) found.push(["warn", `${plural(lacking, "chunk has", "chunks have")} fewer replicas than wanted; repair makes them.`]);
  for (const one of cluster.alarms) found.push(["warn", one.message]);
  return found;
}

function verdict(troubles) {
  const worst = troubles.some(([kind]) => kind === "bad") ? "bad" : troubles.length ? "warn" : "ok";
  const words = { ok: "All is well", warn: "Something wants attention", bad: "Something is wrong" }[worst];
  return h("section", { class: `card verdict ${worst}`, id: "verdict" },
    h("h2", {}, state(words, worst)),
    troubles.length ? h("ul", {}, troubles.map(([, text]) => h("li", {}, text))) : h("p", { class: "soft" }, "A leader, a quorum with room to spare, every node heard, every chunk with all its replicas."));
}

function room(capacity) {
  const full = share(capacity.total_bytes - capacity.free_bytes, capacity.total_bytes); // whoever's files take it
  const words = `of ${bytes(capacity.total_bytes)}; chunks take ${bytes(capacity.used_bytes)}`;
  return [words, meter([[full, full > 0.9 ? "k4" : full > 0.8 ? "k3" : ""]], `the disks are ${percent(full)} full`)];
}

function alarms(raised) {
  if (!raised.length) return none("None.");
  return table(null, [["Code"], ["What"], ["Since"]], raised.map((one) => [h("code", {}, one.code), one.message, when(one.since)]));
}

export const kindOf = (node) => ({ alive: isOrdinary(node) ? "ok" : "warn", suspect: "warn", dead: "bad" }[node.state] || "off");

function nodes(cluster, leads) {
  const all = [...cluster.coordinators, ...cluster.datanodes];
  return table(null, [["Node"], ["Role"], ["State"], ["Last heard", "n"], ["Version"]], all.map((one) => [
    h("a", { href: `http://${one.http}/ui/` }, one.node_id),
    leads && leads.node_id === one.node_id ? "leader" : one.role,
    state(isOrdinary(one) ? stateOf(one) : `${stateOf(one)}, ${one.intent}`, kindOf(one)),
    heardOf(one), one.version || "–",
  ]));
}

const isOrdinary = (node) => node.intent === "normal" || node.intent === "unspecified";
const isKnown = (node) => node.state !== "unspecified"; // a follower does not hear the datanodes
export const stateOf = (node) => (isKnown(node) ? node.state : "not known");
export const heardOf = (node) => (isKnown(node) ? age(node.heartbeat_age_seconds) : "–");
