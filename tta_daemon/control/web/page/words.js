// Numbers and times as a person reads them, and elements as a program writes them.

const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
export const byId = (id) => document.getElementById(id);

export const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

const NONE = "\u2013";
const fixed = (value, digits) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const percent = (value, digits = 1) => (known(value) ? `${fixed(100 * value, digits)}\u2009%` : NONE);
export const count = (value) => (known(value) ? fixed(value, value !== 0 && Math.abs(value) < 10 ? 1 : 0) : NONE);
export const whole = (value) => (known(value) ? fixed(value, 0) : NONE);
export const seconds = (value) => {
  if (!known(value)) return NONE;
  if (value < 0.001) return value === 0 ? "0\u2009ms" : `${fixed(1000 * value, 1)}\u2009ms`;
  return value < 1 ? `${fixed(1000 * value, 0)}\u2009ms` : `${fixed(value, value < 10 ? 1 : 0)}\u2009s`;
};
export const times = (value) => {
  if (!known(value)) return NONE;
  return value < 10 ? `${fixed(value, value < 1 ? 2 : 1)}\u00d7` : `${fixed(value, 0)}\u00d7`;
};

const clocks = [{}, { second: "2-digit" }].map(
  (more) => new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...more }),
);
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export const clock = (at) => clocks[0].format(1000 * at);
export const clockWithSeconds = (at) => clocks[1].format(1000 * at);
export const moment = (at) => {
  const words = clockWithSeconds(at);
  return day.format(1000 * at) === day.format(Date.now()) ? words : `${day.format(1000 * at)}, ${words}`;
};
export const zone = () => {
  const minutes = -new Date().getTimezoneOffset();
  const size = Math.abs(minutes);
  const words = `${Math.floor(size / 60)}${size % 60 ? `:${String(size % 60).padStart(2, "0")}` : ""}`;
  return minutes === 0 ? "times in UTC" : `times in UTC${minutes < 0 ? "\u2212" : "+"}${words}`;
};

const AGES = [[86400, "d"], [3600, "h"], [60, "min"]];
export const ago = (at, now) => {
  const passed = Math.max(0, now - at);
  if (passed < 5) return "just now";
  const [size, unit] = AGES.find(([size]) => passed >= size) ?? [1, "s"];
  return `${Math.floor(passed / size)}\u2009${unit} ago`;
};

export const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);
