// The newest images with their answers, where the daemon shows any.

import { byId, html, percent } from "./words.js";

const drawn = new Map();

export function showPictures(pictures) {
  const none = byId("pictures-none");
  none.hidden = Boolean(pictures?.length);
  none.textContent =
    pictures === null ? "Not shown, for privacy; http.images = 12 shows twelve to all who reach this page." : "None yet.";
  const here = new Set();
  const items = (pictures ?? []).map((picture) => {
    here.add(picture.number);
    const words = wordsOf(picture);
    const known = drawn.get(picture.number);
    if (known?.words === words) return known.item;
    const image = known?.image ?? html("img", { src: `api/images/${picture.number}.png`, alt: "", width: 64, height: 64 });
    const item = html("li", { class: verdict(picture) }, image, ...captionOf(picture));
    drawn.set(picture.number, { words, image, item });
    return item;
  });
  for (const number of drawn.keys()) if (!here.has(number)) drawn.delete(number);
  const list = byId("pictures");
  if (list.children.length !== items.length || items.some((item, n) => list.children[n] !== item)) list.replaceChildren(...items);
}

const verdict = ({ right }) => (right === null ? "open" : right ? "right" : "wrong");

const wordsOf = (picture) => JSON.stringify(picture);

function captionOf({ answer, confidence, source, label, right }) {
  const mark = right === null ? "" : right ? " \u2713" : " \u2717";
  const lines = [html("span", { class: "answer" }, answer, html("b", {}, mark), html("small", {}, ` ${percent(confidence, 0)}`))];
  if (source !== null && source !== answer) lines.push(html("span", { class: "small" }, `frozen: ${source}`));
  lines.push(html("span", { class: "small" }, label === null ? "no label yet" : right ? "label agrees" : `label: ${label}`));
  return lines;
}
