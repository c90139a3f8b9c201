// The worst of the streams, where there are several.

import { byId, html, percent, whole } from "./words.js";

const SHOWN = 10;
const EVERY_MS = 5000;

const orNone = (value, words) => (value === null ? "\u2013" : words(value));

function row(one) {
  const drift = orNone(one.drift, (value) => `${value.toFixed(1)}\u00d7${one.drifted ? " drifted" : ""}`);
  const words = [one.stream || "(no key)", one.serve ?? "\u2013", drift, orNone(one.accuracy.served, (value) => percent(value, 1)), whole(one.images)];
  return html("tr", { role: "row" }, ...words.map((word) => html("td", { role: "cell" }, word)));
}

async function look() {
  const found = await fetch(`api/streams?most=${SHOWN}`, { cache: "no-store" }).catch(() => null);
  if (found?.ok) {
    const said = await found.json();
    byId("streams-section").hidden = said.total === 0;
    byId("streams-count").textContent =
      said.total > SHOWN ? `the ${SHOWN} that drifted most of ${whole(said.total)}` : `${whole(said.total)}`;
    byId("streams").replaceChildren(...said.streams.map(row));
  }
  setTimeout(look, EVERY_MS);
}

export const watchStreams = look;
