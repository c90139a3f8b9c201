// Five answers, to be read in three seconds.

import { ago, byId, html, svg } from "./words.js";

const SHAPES = {
  good: ["M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20z", "M7.5 12.5l3 3l6-6.5"],
  notice: ["M12 3L22.5 21H1.5z", "M12 9.5v5M12 17.4v.2"],
  bad: ["M8 2h8l6 6v8l-6 6H8l-6-6V8z", "M8.5 8.5l7 7M15.5 8.5l-7 7"],
  unknown: ["M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20z", "M8 12h8"],
};
export const TONES = { good: "good", notice: "worth a look", bad: "bad", unknown: "" };

export const icon = (tone) =>
  svg(
    "svg",
    { class: `icon ${tone}`, viewBox: "0 0 24 24", width: 22, height: 22, "aria-hidden": "true" },
    svg("path", { d: SHAPES[tone][0], class: "body" }),
    svg("path", { d: SHAPES[tone][1], class: "sign" }),
  );

export function showCards(cards, now) {
  byId("cards").replaceChildren(
    ...cards.map((card) =>
      html(
        "article",
        { class: `card ${card.tone}`, "data-question": card.question },
        html("h2", { class: "question" }, card.question),
        html(
          "p",
          { class: "head" },
          icon(card.tone),
          html("span", {}, card.head),
          TONES[card.tone] && html("span", { class: "unseen" }, ` (${TONES[card.tone]})`),
        ),
        html("p", { class: "words" }, card.words, card.at && html("span", { class: "when" }, ` ${ago(card.at, now)}`)),
      ),
    ),
  );
}
