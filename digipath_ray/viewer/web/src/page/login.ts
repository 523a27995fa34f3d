/** Login with the token of a viewer on the network. */

import { ServerError, send } from "./api";
import { fill, find, make } from "./dom";

const FRAGMENT = "#token=";

/** Exchange the token in the URL for a cookie, and remove it from the URL. */
export async function takeToken(): Promise<void> {
  if (!location.hash.startsWith(FRAGMENT)) return;
  const token = decodeURIComponent(location.hash.slice(FRAGMENT.length));
  history.replaceState(null, "", "#/");
  await send("login", { token });
}

/** Ask for the token; `onEntered` is called after a correct one. */
export function showLogin(onEntered: () => void): void {
  const token = make("input", { type: "password", autocomplete: "off", required: true });
  const wrong = make("p", { class: "error", role: "alert" });
  const form = make(
    "form",
    { class: "login card" },
    make("h1", {}, "This viewer requires a token"),
    make(
      "p",
      { class: "quiet" },
      "Open the URL printed by digipath view, or enter the token at its end.",
    ),
    make("label", {}, "Token", token),
    wrong,
    make("button", { class: "button primary", type: "submit" }, "Open"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send("login", { token: token.value }).then(onEntered, (reason: unknown) => {
      wrong.textContent =
        reason instanceof ServerError ? reason.message : "No response from the server.";
    });
  });
  fill(find("bar"));
  fill(find("main"), form);
  token.focus();
}
