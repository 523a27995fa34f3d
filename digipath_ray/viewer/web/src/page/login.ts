/** The token of a viewer that other machines reach. */

import { Refusal, send } from "./api";
import { fill, find, make } from "./dom";

const FRAGMENT = "#token=";

/** Trade the token in the address for a cookie, and drop it from the address. */
export async function takeToken(): Promise<void> {
  if (!location.hash.startsWith(FRAGMENT)) return;
  const token = decodeURIComponent(location.hash.slice(FRAGMENT.length));
  history.replaceState(null, "", "#/");
  await send("login", { token });
}

/** Ask for the token; `onEntered` is called once it was right. */
export function showLogin(onEntered: () => void): void {
  const token = make("input", { type: "password", autocomplete: "off", required: true });
  const wrong = make("p", { class: "error", role: "alert" });
  const form = make(
    "form",
    { class: "login card" },
    make("h1", {}, "This viewer asks for its token"),
    make(
      "p",
      { class: "quiet" },
      "Open the address that digipath view printed, or enter the token at its end.",
    ),
    make("label", {}, "Token", token),
    wrong,
    make("button", { class: "button primary", type: "submit" }, "Open"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send("login", { token: token.value }).then(onEntered, (reason: unknown) => {
      wrong.textContent = reason instanceof Refusal ? reason.message : "No answer.";
    });
  });
  fill(find("bar"));
  fill(find("main"), form);
  token.focus();
}
