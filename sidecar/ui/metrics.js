// This node's metrics over the last minutes, kept by the page since it was opened.

import { text } from "./api.js";
import { age, bytes, h, none, renew } from "./dom.js";
import { plot } from "./plot.js";

export const heading = "Metrics";
export const lede = "Of this node, since this page was opened. All of them, for Prometheus: /metrics.";

const EVERY_MS = 2000;
const SPAN_SECONDS = 300;
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : 0 });
const perSecond = (value) => `${number(value)}/s`;
const bytesPerSecond = (value) => `${bytes(value)}/s`;
const duration = (value) => (value < 1 ? `${number(value * 1000)} ms` : age(value));

/** What is plotted, where the node has it. rate: of a counter; mean: of a sum by a count; else as it is. */
const PLOTS = [
  { name: "Calls answered", rate: "quorumfs_rpc_handled_total", write: perSecond },
  { name: "Calls that failed", rate: "quorumfs_rpc_handled_total", where: (labels) => labels.code !== "OK", write: perSecond },
  { name: "Mean time of a call", mean: ["quorumfs_rpc_duration_seconds_sum", "quorumfs_rpc_duration_seconds_count"], where: (labels) => !/Stream|Watch|Write|Read$/.test(labels.method || ""), write: duration },
  { name: "Entries committed", rate: "quorumfs_raft_commit_index", write: perSecond },
  { name: "Not applied yet", minus: ["quorumfs_raft_commit_index", "quorumfs_raft_applied_index"], write: number },
  { name: "Proposals that wait", value: "quorumfs_raft_queue_ops", write: number },
  { name: "Repair: waits", value: "quorumfs_repair_pending", write: number },
  { name: "Bytes received", rate: "quorumfs_received_bytes_total", write: bytesPerSecond },
  { name: "Bytes sent", rate: "quorumfs_sent_bytes_total", write: bytesPerSecond },
  { name: "Streams", value: "quorumfs_streams", write: number },
  { name: "Chunks on disks", value: "quorumfs_disk_chunks", write: number },
  { name: "Bytes of chunks", value: "quorumfs_disk_used_bytes", write: bytes },
  { name: "CPU", rate: "process_cpu_seconds_total", write: (value) => `${number(value * 100)} %` },
  { name: "Memory", value: "process_resident_memory_bytes", write: bytes },
];

const samples = []; // [seconds, Map name -> [[labels, value]]], the oldest first
let failure = null;

/** Begin to keep figures; called once. */
export function begin() {
  async function keep() {
    if (!document.hidden) await sample();
    setTimeout(keep, EVERY_MS);
  }
  void keep();
}

async function sample() {
  try {
    const told = parse(await text("../metrics"));
    samples.push([performance.now() / 1000, told]);
    failure = null;
  } catch (error) {
    failure = error;
    return;
  }
  const oldest = performance.now() / 1000 - SPAN_SECONDS;
  while (samples.length && samples[0][0] < oldest) samples.shift();
}

export function open(main, _asked, fresh) {
  const place = h("div", {});
  main.append(place);
  return {
    async round() {
      if (failure) throw failure;
      fresh({ current: true, observed_by: "this node" });
      const made = PLOTS.filter((one) => has(one)).map((one) => plot(one.name, points(one), span(), one.write));
      renew(place, made.length ? h("div", { class: "plots" }, made) : none("The first figures come in a moment."));
    },
  };
}

/** Prometheus' text: the metrics' samples by name. */
export function parse(told) {
  const found = new Map();
  for (const line of told.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    const rows = found.get(match[1]) || [];
    rows.push([labels, Number(match[3])]);
    found.set(match[1], rows);
  }
  return found;
}

/** Seconds that are plotted: what there is, at least one minute. */
const span = () => Math.min(SPAN_SECONDS, Math.max(60, samples.length ? performance.now() / 1000 - samples[0][0] : 0));

const namesOf = (one) => one.mean || one.minus || [one.rate || one.value];
const has = (one) => samples.some(([, told]) => namesOf(one).every((name) => told.has(name)));

function total(told, name, where = () => true) {
  const rows = told.get(name);
  return rows ? rows.filter(([labels]) => where(labels)).reduce((sum, [, value]) => sum + value, 0) : null;
}

function points(one) {
  const totals = samples.map(([at, told]) => [at, namesOf(one).map((name) => total(told, name, one.where))]);
  if (one.value) return totals.map(([at, [value]]) => [at, value]);
  if (one.minus) return totals.map(([at, [a, b]]) => [at, a === null || b === null ? null : Math.max(0, a - b)]);
  return totals.slice(1).map(([at, now], k) => [at, step(one, totals[k], [at, now])]);
}

/** Between two samples; null where the node was started anew, or did not answer. */
function step(one, [before, was], [at, now]) {
  if ([...was, ...now].includes(null) || now.some((value, k) => value < was[k])) return null;
  if (one.rate) return (now[0] - was[0]) / (at - before);
  return now[1] > was[1] ? (now[0] - was[0]) / (now[1] - was[1]) : null;
}
