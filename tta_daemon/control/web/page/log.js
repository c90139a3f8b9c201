// What happened, newest first.

import { icon } from "./cards.js";
import { byId, capital, html, known, moment, whole } from "./words.js";

const SHOWN = 12;
const KEPT = 256;
const MOST_NUMBERS = 4;

function numbersOf({ numbers }) {
  const told = Object.entries(numbers).filter(([, value]) => known(value)).slice(0, MOST_NUMBERS);
  if (!told.length) return null;
  const words = told.map(([name, value]) => `${name.replaceAll("_", " ")} ${Number(value.toPrecision(3)).toLocaleString("en")}`);
  return html("span", { class: "quiet numbers" }, words.join(", "));
}

export class Log {
  events = [];
  #all = false;

  constructor() {
    byId("log-more").addEventListener("click", () => {
      this.#all = !this.#all;
      this.#draw();
    });
  }

  take(events, fresh) {
    if (fresh) this.events = [];
    if (!events.length && !fresh) return;
    const again = new Set(events.map((event) => event.first));
    this.events = [...this.events.filter((event) => !again.has(event.first)), ...events].slice(-KEPT);
    this.#draw();
    const newest = events.at(-1);
    if (!fresh && newest && !newest.passing) byId("announce").textContent = newest.words;
  }

  get marked() {
    return this.events.filter((event) => !event.passing);
  }

  #draw() {
    const newest = [...this.events].reverse();
    const shown = this.#all ? newest : newest.slice(0, SHOWN);
    byId("log-none").hidden = newest.length > 0;
    byId("log").replaceChildren(
      ...shown.map((event) =>
        html(
          "li",
          { class: event.tone, "data-kind": event.kind },
          icon(event.tone),
          html("time", { datetime: new Date(1000 * event.at).toISOString() }, moment(event.at)),
          html(
            "span",
            { class: "event" },
            capital(event.words),
            event.times > 1 && html("span", { class: "times" }, ` \u00d7${whole(event.times)}`),
            numbersOf(event),
          ),
        ),
      ),
    );
    const more = byId("log-more");
    more.hidden = newest.length <= SHOWN;
    more.textContent = this.#all ? `Show the newest ${SHOWN}` : `Show all ${newest.length}`;
  }
}
