// The settings in force: value, reach and meaning, table by table.

import { byId, html } from "./words.js";

let rows = [];
let digest = null;

export async function showSettings(current) {
  if (current === null || current === digest) return;
  const answer = await fetch("api/settings", { cache: "no-store" }).catch(() => null);
  if (!answer?.ok) return;
  const told = await answer.json();
  if (!told.rows.length) return;
  ({ rows, digest } = told);
  byId("digest").textContent = `digest ${digest}`;
  draw();
}

const written = (value) =>
  Array.isArray(value) ? (value.length ? value.map(written).join(", ") : "none") : value === "" ? "none" : String(value);

function draw() {
  const wanted = byId("find").value.trim().toLowerCase();
  const changedOnly = byId("changed").checked && !wanted;
  const fits = (row) => (wanted ? `${row.path} ${row.doc}`.toLowerCase().includes(wanted) : !changedOnly || row.changed);
  const shown = rows.filter(fits);
  byId("settings-none").hidden = shown.length > 0;
  byId("settings-table").hidden = shown.length === 0;
  byId("settings").replaceChildren(...shown.map(rowOf));
}

// The roles are what a table has anyway, and what it loses where the style makes blocks of its rows.
const rowOf = (row) =>
  html(
    "tr",
    { role: "row", class: row.changed ? "changed" : "" },
    html("th", { scope: "row", role: "rowheader" }, ...broken(row.path)),
    html(
      "td",
      { role: "cell", class: "value" },
      written(row.value),
      row.changed && html("span", { class: "unseen" }, " (not the default)"),
    ),
    html("td", { role: "cell" }, html("span", { class: "reach", "data-reach": row.reach }, row.reach)),
    html("td", { role: "cell", class: "doc" }, row.doc),
  );

// A path may be broken after its dots.
const broken = (path) => path.split(".").flatMap((part, n) => (n ? [".", html("wbr"), part] : [part]));

byId("find").addEventListener("input", draw);
byId("changed").addEventListener("change", draw);
