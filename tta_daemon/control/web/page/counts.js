// What has been counted since the process began, beside what the charts draw.

import { byId, html, whole } from "./words.js";

const spaced = (name) => name.replaceAll("_", " ");

const listed = (counts, none = "none") => {
  const parts = Object.entries(counts).map(([name, count]) => `${spaced(name)} ${whole(count)}`);
  return parts.length ? parts.join(", ") : none;
};

export function showCounts(facts) {
  const lag = Object.entries(facts.lag).map(([partition, behind]) => `${partition}: ${whole(behind)} behind`);
  const rows = [
    ["Images answered", whole(facts.answered)],
    ["Partitions held", lag.length ? lag.join(", ") : "none"],
    ["Dead letters", listed(facts.dead)],
    ["Not learned from", listed(facts.skipped)],
    ["State put back", listed(facts.restored)],
    ...(facts.guarded ? [["The guard's decisions", listed(facts.guard)]] : []),
  ];
  byId("counts").replaceChildren(...rows.flatMap(([name, words]) => [html("dt", {}, name), html("dd", {}, words)]));
}
