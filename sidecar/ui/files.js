// The names in a directory, and where a file's bytes lie.

import { get } from "./api.js";
import { bytes, card, chunkLink, count, h, list, none, plural, renew, state, table, when } from "./dom.js";

export const heading = "Files";
export const lede = "";

const href = (path, after) => `#/files?path=${encodeURIComponent(path)}${after ? `&after=${encodeURIComponent(after)}` : ""}`;

export function open(main, asked, fresh) {
  const path = asked.get("path") || "/";
  const after = asked.get("after") || "";
  const place = h("div", {});
  main.append(crumbs(path), place);
  let isFile = asked.get("type") === "file"; // else the agent says so
  return {
    async round() {
      if (!isFile) {
        try {
          const told = await get(`../v1/files?path=${encodeURIComponent(path)}&after=${encodeURIComponent(after)}&limit=200`);
          fresh(told);
          renew(place, card(path, entries(told), pages(told, after)));
          return;
        } catch (error) {
          if (error.status === 404) return missing(place, error);
          if (error.status !== 409) throw error;
          isFile = true;
        }
      }
      try {
        const told = await get(`../v1/files/layout?path=${encodeURIComponent(path)}`);
        fresh(told);
        renew(place, card(path, layout(told)));
      } catch (error) {
        if (error.status !== 404) throw error;
        missing(place, error);
      }
    },
  };
}

function missing(place, error) {
  renew(place, card("Nothing is there", h("p", {}, state(error.words, "warn"))));
}

function crumbs(path) {
  const names = path.split("/").filter(Boolean);
  const links = names.map((name, k) => {
    const to = `/${names.slice(0, k + 1).join("/")}`;
    return [" / ", k === names.length - 1 ? h("span", { "aria-current": "page" }, name) : h("a", { href: href(to) }, name)];
  });
  return h("nav", { class: "crumbs", "aria-label": "Path" }, names.length ? h("a", { href: href("/") }, "root") : h("span", { "aria-current": "page" }, "root"), links);
}

function entries(told) {
  if (!told.entries.length) return none("Empty.");
  return table(null, [["Name"], ["Size", "n"], ["Replicas", "n"], ["Modified"], ["Mode"]], told.entries.map((one) => [
    one.type === "symlink" ? [`${one.name} → ${one.target}`] : h("a", { href: href(one.path) + (one.type === "file" ? "&type=file" : "") }, one.type === "directory" ? `${one.name}/` : one.name),
    one.type === "file" ? bytes(one.size_bytes) : "–",
    one.replication === null ? "–" : one.replication,
    when(one.modified), h("code", {}, one.mode),
  ]));
}

function pages(told, after) {
  if (!told.next && !after) return null;
  return h("p", { class: "small" }, after ? h("a", { href: href(told.path) }, "From the start") : null, after && told.next ? " · " : null,
    told.next ? h("a", { href: href(told.path, told.next) }, "More") : null);
}

function layout(told) {
  const words = `${bytes(told.size_bytes)} (${count(told.size_bytes)} bytes) in ${plural(told.extents.length, "piece")}${told.is_whole ? "" : ", and more"}.`;
  if (!told.extents.length) return h("p", {}, words);
  return [h("p", {}, words), table(null, [["From", "n"], ["Length", "n"], ["Chunk", "id"], ["Replicas"]], told.extents.map((one) => [
    count(one.offset), count(one.length), chunkLink(one.chunk),
    one.inline ? "in the metadata, on every coordinator" : one.replicas.length ? one.replicas.map((held) => h("div", {}, `${held.node_id} `, place(held))) : list([]),
  ]))];
}

function place(held) {
  if (held.state !== "live") return state(held.state, "bad");
  return held.node_state === "alive" || held.node_state === "unspecified" ? state("live", "ok") : state(`live, its node is ${held.node_state}`, "warn");
}
