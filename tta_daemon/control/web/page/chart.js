// One chart: lines over time in an SVG, their names and values above it, and the same as a table.

import { clock, clockWithSeconds, html, known, svg } from "./words.js";

const LEFT = 52;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const TABLE_ROWS = 12;
const STEPS = [60, 120, 300, 900, 1800, 3600, 7200, 14400, 21600, 43200];

// name, title, unit: of the chart. lines: {name, column | value(store, i), low, high, kind}. format, axis: numbers to
// words. scale(store, lines): {low, high, log}. limit: a line that is named across. none(store, facts): words instead.
export class Chart {
  constructor(plan) {
    this.plan = plan;
    this.title = html("h3", { id: `chart-${plan.name}` }, plan.title);
    this.keys = html("ul", { class: "keys" });
    this.drawing = svg("svg", { role: "img", "aria-labelledby": `words-${plan.name}`, class: "drawing" });
    this.words = html("p", { class: "unseen", id: `words-${plan.name}` });
    this.none = html("p", { class: "empty", hidden: true });
    this.table = html("div", { class: "table", id: `table-${plan.name}`, hidden: true });
    this.toggle = html(
      "button",
      {
        type: "button",
        class: "plain-button",
        "aria-expanded": "false",
        "aria-controls": `table-${plan.name}`,
        "aria-label": `Table of ${plan.title.toLowerCase()}`,
        on: { click: () => this.#flip() },
      },
      "Table",
    );
    this.figure = html(
      "figure",
      { "aria-labelledby": `chart-${plan.name}`, class: plan.wide ? "chart wide" : "chart" },
      html("div", { class: "bar" }, this.title, this.toggle),
      html("p", { class: "quiet unit" }, plan.unit),
      this.keys,
      this.drawing,
      this.words,
      this.none,
      this.table,
    );
    this.tabled = false;
  }

  #flip() {
    this.tabled = !this.tabled;
    this.toggle.setAttribute("aria-expanded", String(this.tabled));
    this.toggle.textContent = this.tabled ? "Chart" : "Table";
    if (this.last) this.draw(...this.last);
  }

  draw(store, span, at, events, facts) {
    this.last = [store, span, at, events, facts];
    const lines = this.plan.lines.filter((line) => store.has(line.column));
    const empty = lines.length === 0;
    this.none.hidden = !empty;
    this.none.textContent = empty ? this.plan.none(store, facts) : "";
    this.toggle.hidden = empty;
    this.keys.hidden = empty;
    this.drawing.toggleAttribute("hidden", empty || this.tabled);
    this.table.hidden = empty || !this.tabled;
    if (empty) return;
    const spot = at === null ? store.at.length - 1 : store.nearest(at);
    this.#name(store, lines, spot, facts);
    if (this.tabled) this.#tabulate(store, lines, facts);
    else this.#sketch(store, span, at, events, lines, facts);
  }

  #value(store, line, i, facts, column = line.column) {
    const value = store.column(column)[i];
    return known(value) && this.plan.of ? this.plan.of(value, line, store, i, facts) : value;
  }

  #name(store, lines, spot, facts) {
    const said = lines.map((line) => [line, this.plan.format(this.#value(store, line, spot, facts))]);
    this.keys.replaceChildren(
      ...said.map(([line, value]) =>
        html(
          "li",
          {},
          svg(
            "svg",
            { class: "swatch", viewBox: "0 0 28 10", width: 28, height: 10, "aria-hidden": "true" },
            svg("line", { x1: 1, x2: 27, y1: 5, y2: 5, class: `line ${line.kind}` }),
          ),
          html("span", { class: "key" }, line.name),
          html("b", {}, value),
        ),
      ),
      ...(this.plan.more?.(store, facts) ?? []).map((words) => html("li", { class: "more" }, words)),
    );
    this.words.textContent = `${this.plan.title}: ${said.map(([line, value]) => `${line.name} ${value}`).join(", ")}`;
  }

  #tabulate(store, lines, facts) {
    const count = store.at.length;
    const stride = Math.max(1, Math.floor(count / TABLE_ROWS));
    const rows = [];
    for (let i = count - 1; i >= 0 && rows.length < TABLE_ROWS; i -= stride) {
      const cells = lines.map((line) => html("td", {}, this.plan.format(this.#value(store, line, i, facts))));
      rows.push(html("tr", {}, html("th", { scope: "row" }, clockWithSeconds(store.at[i])), ...cells));
    }
    const head = lines.map((line) => html("th", { scope: "col" }, line.name));
    this.table.replaceChildren(
      html(
        "table",
        {},
        html("caption", { class: "unseen" }, `${this.plan.title}, ${this.plan.unit}`),
        html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "time"), ...head)),
        html("tbody", {}, ...rows),
      ),
    );
  }

  #sketch(store, span, at, events, lines, facts) {
    const width = Math.max(240, Math.round(this.figure.clientWidth - 2));
    const height = this.plan.wide ? 210 : 168;
    const [from, to] = store.range(span);
    const columns = lines.map((line) => store.at.map((_, i) => this.#value(store, line, i, facts)));
    const { low, high, log } = this.plan.scale(columns.flat().filter(known));
    const x = (time) => LEFT + ((time - from) / (to - from)) * (width - LEFT - RIGHT);
    const share = log
      ? (value) => Math.log(Math.min(high, Math.max(low, value)) / low) / Math.log(high / low)
      : (value) => (value - low) / (high - low);
    const y = (value) => height - BOTTOM - share(value) * (height - TOP - BOTTOM);
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.drawing.setAttribute("width", width);
    this.drawing.setAttribute("height", height);
    this.drawing.replaceChildren(
      ...this.#grid(x, y, from, to, low, high, log, width, height),
      ...this.#marks(x, from, to, events, height),
      ...this.#limit(y, low, high, width),
      ...lines.filter((line) => line.low).map((line) => this.#band(store, line, x, y)),
      ...lines
        .map((line, n) => svg("path", { d: path(store, columns[n], x, y), class: `line ${line.kind}` }))
        .reverse(),
      ...this.#here(store, at, lines, columns, x, y, height),
    );
    this.across = (pixel) => from + ((pixel * (width / this.drawing.clientWidth) - LEFT) / (width - LEFT - RIGHT)) * (to - from);
  }

  #grid(x, y, from, to, low, high, log, width, height) {
    const drawn = [];
    for (const value of log ? decades(low, high) : nice(low, high)) {
      drawn.push(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid" }));
      drawn.push(svg("text", { x: LEFT - 7, y: y(value) + 4, class: "scale", "text-anchor": "end" }, this.plan.axis(value)));
    }
    const most = Math.max(2, Math.floor((width - LEFT) / 90));
    const step = STEPS.find((size) => (to - from) / size <= most) ?? STEPS[STEPS.length - 1];
    const offset = new Date(1000 * to).getTimezoneOffset() * 60;
    for (let time = Math.ceil((from - offset) / step) * step + offset; time <= to; time += step) {
      drawn.push(svg("line", { x1: x(time), x2: x(time), y1: height - BOTTOM, y2: height - BOTTOM + 4, class: "axis" }));
      const anchor = x(time) > width - RIGHT - 16 ? "end" : "middle";
      const place = anchor === "end" ? width - RIGHT + 4 : x(time);
      drawn.push(svg("text", { x: place, y: height - 5, class: "scale", "text-anchor": anchor }, clock(time)));
    }
    drawn.push(svg("line", { x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM, class: "axis" }));
    return drawn;
  }

  #marks(x, from, to, events, height) {
    return events
      .filter((event) => event.at >= from && event.at <= to)
      .map((event) =>
        svg(
          "g",
          { class: `mark ${event.tone}` },
          svg("title", {}, `${clockWithSeconds(event.at)} ${event.words}`),
          svg("line", { x1: x(event.at), x2: x(event.at), y1: TOP, y2: height - BOTTOM }),
          svg("path", { d: event.tone === "good" ? ring(x(event.at)) : `M${x(event.at) - 4} ${TOP - 7}h8l-4 7z` }),
        ),
      );
  }

  #limit(y, low, high, width) {
    const { limit } = this.plan;
    if (!limit || limit.at < low || limit.at > high) return [];
    const level = y(limit.at);
    return [
      svg("line", { x1: LEFT, x2: width - RIGHT, y1: level, y2: level, class: "limit" }),
      svg("text", { x: LEFT + 5, y: level - 5, class: "limit-name" }, limit.name),
    ];
  }

  #band(store, line, x, y) {
    const highs = store.column(line.high);
    const lows = store.column(line.low);
    const there = store.at.map((_, i) => i).filter((i) => known(highs[i]) && known(lows[i]));
    const forth = there.map((i) => `${r(x(store.at[i]))} ${r(y(highs[i]))}`);
    const back = there.reverse().map((i) => `${r(x(store.at[i]))} ${r(y(lows[i]))}`);
    return svg("path", { d: forth.length ? `M${[...forth, ...back].join("L")}z` : "", class: `band ${line.kind}` });
  }

  #here(store, at, lines, columns, x, y, height) {
    const spot = at === null ? store.at.length - 1 : store.nearest(at);
    const time = store.at[spot];
    const drawn = at === null ? [] : [svg("line", { x1: x(time), x2: x(time), y1: TOP, y2: height - BOTTOM, class: "here" })];
    lines.forEach((line, n) => {
      const value = columns[n][spot];
      if (known(value)) drawn.push(svg("circle", { cx: x(time), cy: y(value), r: 3.2, class: `dot ${line.kind}` }));
    });
    return drawn;
  }
}

const ring = (x) => `M${x - 3.5} ${TOP - 4}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z`;
const r = (value) => Math.round(10 * value) / 10;

// A line through what is known; where something is missing it is broken, and a point alone is a dot.
function path(store, column, x, y) {
  let drawn = "";
  let before = null;
  column.forEach((value, i) => {
    if (!known(value)) {
      before = null;
      return;
    }
    const joined = before !== null && store.at[i] - before <= 3 * store.step + 2;
    const spot = `${r(x(store.at[i]))} ${r(y(value))}`;
    const alone = !joined && !known(column[i + 1]);
    drawn += joined ? `L${spot}` : `M${spot}${alone ? "h0.1" : ""}`;
    before = store.at[i];
  });
  return drawn;
}

export function nice(low, high, most = 5) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((size) => size * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(value || 0);
  return found;
}

function decades(low, high) {
  const found = [];
  for (let value = 10 ** Math.ceil(Math.log10(low) - 1e-9); value <= high * 1.0001; value *= 10) found.push(value);
  return found;
}
