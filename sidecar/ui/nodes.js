// The nodes, all of them or those that a selector matches.

import { get } from "./api.js";
import { age, bytes, card, h, labels, meter, none, percent, plural, renew, share, state, table } from "./dom.js";
import { heardOf, kindOf, stateOf } from "./overview.js";

export const heading = "Nodes";
export const lede = "As the leader sees them. A node’s name leads to the pages of its own agent.";

export function open(main, asked, fresh) {
  const selector = asked.get("selector") || "";
  const box = h("input", { id: "selector", type: "search", value: selector, autocomplete: "off", spellcheck: "false", placeholder: "zone=a,disk in (ssd,nvme),!canary" });
  const form = h("form", { role: "search", submit: (event) => {
    event.preventDefault();
    const wanted = box.value.trim();
    location.hash = wanted ? `#/nodes?selector=${encodeURIComponent(wanted)}` : "#/nodes";
  } }, h("label", { for: "selector" }, "Selector"), box, h("button", { type: "submit" }, "Show"));
  const place = h("div", {});
  main.append(h("section", { class: "card form-card", "aria-label": "Which nodes" }, form), place);
  return {
    async round() {
      const [told, cluster] = await Promise.all([get(`../v1/cluster/nodes?selector=${encodeURIComponent(selector)}`), get("../v1/cluster")]);
      fresh(told);
      renew(place, card(plural(told.nodes.length, "node"), told.nodes.length ? rows(told.nodes, cluster.leader) : none("No node matches.")));
    },
  };
}

function rows(nodes, leader) {
  return table(null, [["Node"], ["Role"], ["State"], ["Heard", "n"], ["Labels"], ["Disks"], ["Version"]], nodes.map((one) => [
    h("a", { href: `http://${one.http}/ui/` }, one.node_id),
    leader && leader.node_id === one.node_id ? "leader" : one.role,
    [state(stateOf(one), kindOf(one)), intent(one)],
    heardOf(one),
    h("span", {}, labels(one.labels)),
    disks(one),
    one.version || "–",
  ]));
}

function intent(node) {
  if (node.intent === "normal" || node.intent === "unspecified") return null;
  const left = node.maintenance_seconds ? `, ${age(node.maintenance_seconds)} left` : "";
  return h("div", { class: "small soft" }, `${node.intent}${left}`);
}

function disks(node) {
  if (!node.disks.length) return "–";
  const total = node.disks.reduce((sum, one) => sum + one.total_bytes, 0);
  const free = node.disks.reduce((sum, one) => sum + one.free_bytes, 0);
  const used = share(total - free, total);
  const words = `${bytes(free)} free of ${bytes(total)}`;
  const bad = node.disks.filter((one) => one.state !== "ok").map((one) => state(`${one.path}: ${one.state}`, "bad"));
  return h("div", { class: "wide" }, meter([[used, used > 0.9 ? "k4" : ""]], `${percent(used)} used`), h("span", { class: "small soft" }, words), bad);
}
