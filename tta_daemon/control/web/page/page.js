// The status page: what the daemon says, put where it belongs.

import { showCards } from "./cards.js";
import { charts } from "./charts.js";
import { showCounts } from "./counts.js";
import { Feed } from "./feed.js";
import { Log } from "./log.js";
import { showOperate } from "./operate.js";
import { showPictures } from "./pictures.js";
import { showSettings } from "./settings.js";
import { Store } from "./store.js";
import { watchStreams } from "./streams.js";
import { byId, clockWithSeconds, html, moment, zone } from "./words.js";

const store = new Store();
const log = new Log();
let span = 900;
let latest = null;
let looked = null; // a time, where somebody looks at another than now

byId("charts").append(...charts.map((chart) => chart.figure));
byId("zone").textContent = zone();

const feed = new Feed(take, contact);

function take(said, fresh) {
  latest = said;
  store.take(said.samples, span, fresh);
  log.take(said.events, fresh);
  showCards(said.cards, said.at);
  showAbout(said);
  showPictures(said.pictures);
  showCounts(said.facts);
  showOperate(said.facts.lifecycle);
  showSettings(said.facts.config);
  draw();
}

function showAbout(said) {
  const { model, build } = said.facts;
  const parts = model.model ? [model.model, model.method, `on ${model.device}`] : ["loading the model"];
  byId("about").replaceChildren(...parts.map((part) => html("span", {}, part)));
  byId("build").textContent = `tta-daemon ${said.version}, Python ${build.python}, torch ${build.torch}`;
  const health = said.cards[0];
  document.title = `${health.tone === "good" ? "" : "\u26a0 "}${health.head} \u00b7 tta-daemon`;
}

function draw() {
  if (latest === null) return;
  for (const chart of charts) chart.draw(store, span, looked, log.marked, latest.facts);
  const slider = byId("moment");
  const words = looked === null ? "now" : moment(looked);
  byId("moment-words").textContent = words;
  slider.setAttribute("aria-valuetext", looked === null ? "now" : [words, ...charts.map((c) => c.words.textContent)].join(". "));
}

const CONTACT = { live: "live", asking: "asking every 2 s", connecting: "connecting", lost: "no contact" };

function contact(state) {
  byId("contact").dataset.state = state;
  byId("contact-words").textContent = CONTACT[state];
  document.body.classList.toggle("old", state === "lost");
  const lost = byId("lost");
  if ((state === "lost") === !lost.hidden) return;
  lost.hidden = state !== "lost";
  const since = latest === null ? "" : ` since ${clockWithSeconds(latest.at)}: what is shown is of then`;
  lost.textContent = lost.hidden ? "" : `No contact with the daemon${since}. Trying again every 2 s.`;
  if (!lost.hidden) document.title = "\u26a0 No contact \u00b7 tta-daemon";
}

byId("spans").addEventListener("change", (event) => {
  span = Number(event.target.value);
  look(null);
  feed.open(span);
});

function look(at) {
  looked = at;
  if (at === null) byId("moment").value = 1000;
  draw();
}

byId("moment").addEventListener("input", (event) => {
  const share = event.target.value / 1000;
  const [from, to] = store.range(span);
  look(share === 1 || !store.at.length ? null : from + share * (to - from));
});

for (const chart of charts) {
  chart.drawing.addEventListener("pointermove", (event) => {
    if (!chart.across || !store.at.length) return;
    const [from, to] = store.range(span);
    const at = chart.across(event.clientX - chart.drawing.getBoundingClientRect().left);
    byId("moment").value = Math.round((1000 * (at - from)) / (to - from));
    look(Math.min(to, Math.max(from, at)));
  });
  chart.drawing.addEventListener("pointerleave", () => look(null));
}

new ResizeObserver(draw).observe(byId("charts"));
feed.open(span);
watchStreams();
