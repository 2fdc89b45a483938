// Asking this agent. The token goes in a header, is kept for this tab only, and never comes into an address.

const KEY = "quorumfs.token";
const PATIENCE_MS = 8000;

export const token = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

const names = new Map();

/** The node at this address, as far as an answer has told it. */
export const nameOf = (address) => names.get(address) || address;

function learn(told) {
  for (const one of [...(told.nodes || []), ...(told.coordinators || [])]) if (one.grpc) names.set(one.grpc, one.node_id);
}

/** What an agent refused with, or that it did not answer (`status` 0). */
export class Refused extends Error {
  constructor(status, told) {
    super(told.message);
    this.status = status;
    this.cause = told.cause;
    this.next = told.next;
  }
  get words() { return [this.message, this.cause, this.next].filter(Boolean).join(" · "); }
}

export function headers(more = {}) {
  const held = token.get();
  return held ? { ...more, Authorization: `Bearer ${held}` } : more;
}

async function answer(path, accept) {
  let response;
  try {
    response = await fetch(path, { headers: headers({ Accept: accept }), signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  } catch (error) {
    throw new Refused(0, { message: "This agent does not answer", cause: String(error.message || error), next: "" });
  }
  return response;
}

/** JSON of this agent. `also`: statuses, besides good ones, whose body is an answer too. */
export async function get(path, also = []) {
  const response = await answer(path, "application/json");
  let told = null;
  try { told = await response.json(); } catch { /* told below */ }
  if (told !== null && (response.ok || also.includes(response.status))) {
    learn(told);
    return told;
  }
  const error = told && told.error ? told.error : { message: `HTTP ${response.status}`, cause: "", next: "" };
  throw new Refused(response.status, error);
}

/** Like `get`, but a refusal is null, except that a token is asked for: for parts that a page can do without. */
export async function maybe(path, also = []) {
  try {
    return await get(path, also);
  } catch (error) {
    if (error.status === 401 || error.status === 0) throw error;
    return null;
  }
}

export async function text(path) {
  const response = await answer(path, "text/plain");
  if (!response.ok) throw new Refused(response.status, { message: `HTTP ${response.status}`, cause: path, next: "" });
  return response.text();
}
