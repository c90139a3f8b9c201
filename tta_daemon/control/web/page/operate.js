// Reset, save and reload. The token stays in its field: it is sent as a header, and kept nowhere.

import { byId, capital, html } from "./words.js";

const ASKS = [
  ["reload", "Reload the configuration", "Reads the file again. A bad file changes nothing."],
  ["checkpoint", "Save the state", "Settles, and saves what was learned."],
  ["reset", "Reset what was learned", "The deployed model answers, and learning begins anew. This cannot be undone."],
];

let enabled = null;

export function showOperate(lifecycle) {
  if (lifecycle === enabled) return;
  enabled = lifecycle;
  byId("operate").replaceChildren(...(enabled ? form() : [off()]));
}

const off = () =>
  html("p", { class: "empty" }, "Switched off. http.lifecycle = true and a token let this page reset, save and reload.");

function form() {
  const token = html("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false" });
  const said = html("p", { id: "said", role: "status" });
  const buttons = ASKS.map(([name, words, doc]) => {
    const button = html(
      "button",
      { type: "button", id: name, class: name === "reset" ? "grave" : "", "aria-describedby": `${name}-doc` },
      words,
    );
    button.addEventListener("click", () => (name === "reset" ? confirmed(token, said, buttons) : ask(name, token, said, buttons)));
    return [button, html("p", { class: "quiet", id: `${name}-doc` }, doc)];
  });
  const field = html("p", { class: "token" }, html("label", { for: "token" }, "Token"), token);
  const asks = html("div", { class: "buttons" }, ...buttons.map((pair) => html("div", {}, ...pair)));
  return [html("form", { on: { submit: (event) => event.preventDefault() } }, field, asks), said];
}

function confirmed(token, said, buttons) {
  const dialog = html(
    "dialog",
    { "aria-labelledby": "sure" },
    html("h3", { id: "sure" }, "Forget all that was learned?"),
    html("p", {}, "The deployed model answers from the next batch on, and learning begins anew."),
    html(
      "p",
      { class: "choices" },
      html("button", { type: "button", on: { click: () => dialog.close("") } }, "Keep it"),
      html("button", { type: "button", class: "grave", id: "reset-now", on: { click: () => dialog.close("reset") } }, "Forget it"),
    ),
  );
  dialog.addEventListener("close", () => {
    const sure = dialog.returnValue === "reset";
    dialog.remove();
    byId("reset").focus();
    if (sure) ask("reset", token, said, buttons);
  });
  document.body.append(dialog);
  dialog.showModal();
}

async function ask(name, token, said, buttons) {
  const wait = (busy) => buttons.forEach(([button]) => button.toggleAttribute("disabled", busy));
  if (!token.value) {
    tell(said, "bad", "It needs the token first.");
    token.focus();
    return;
  }
  wait(true);
  tell(said, "", "Asked; waiting for the daemon.");
  try {
    const headers = { authorization: `Bearer ${encoded(token.value)}` };
    const answer = await fetch(`-/${name}`, { method: "POST", headers, cache: "no-store", credentials: "omit" });
    const words = (await answer.text()).trim();
    tell(said, answer.ok ? "good" : "bad", answer.status === 401 ? "Refused: the token is wrong." : capital(words));
  } catch {
    tell(said, "bad", "No answer: the daemon could not be reached, or the token holds letters that no header may.");
  } finally {
    wait(false);
    byId(name).focus();
  }
}

// Headers hold bytes: the token goes as those of its UTF-8.
const encoded = (token) => String.fromCharCode(...new TextEncoder().encode(token));

function tell(said, tone, words) {
  said.className = tone;
  said.textContent = words;
}
