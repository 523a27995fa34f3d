/** Entry point: logs in, reads the cohort, and routes. */

import { needsToken, ServerError } from "./page/api";
import { drawBar, researchNotice } from "./page/bar";
import { showCohort } from "./cohort/cohortPage";
import { fill, find, make, announce } from "./page/dom";
import { Live } from "./page/live";
import { showLogin, takeToken } from "./page/login";
import { showPatient } from "./cohort/patientPage";
import { readRoute } from "./page/route";
import { showSlide } from "./slide/slidePage";
import { startTheme } from "./page/theme";

async function start(): Promise<void> {
  startTheme();
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the URL fragment is the route
    find("main").focus();
  });
  try {
    await takeToken();
    follow(await Live.open());
  } catch (reason) {
    if (needsToken(reason)) showLogin(() => void start());
    else showFailure(reason);
  }
}

/** Show the page of the URL, and follow its changes. */
function follow(live: Live): void {
  let shown = new AbortController();
  const show = () => {
    shown.abort();
    shown = new AbortController();
    open(live, shown.signal);
  };
  window.addEventListener("hashchange", () => {
    show();
    find("main").focus({ preventScroll: true });
    announce(document.title);
  });
  live.onRefused = () => location.reload(); // restart with the login
  const forever = new AbortController().signal;
  live.watch((part) => {
    const route = readRoute(location.hash);
    if (part === "kind" && route.page !== "slide") show();
    if (part !== "about" || route.page === "slide") return;
    document.title = titleOf(live, route);
    drawBar(live);
  }, forever);
  show();
}

function open(live: Live, until: AbortSignal): void {
  const main = find("main");
  const route = readRoute(location.hash);
  document.body.dataset.page = route.page;
  document.title = titleOf(live, route);
  window.scrollTo(0, 0);
  if (route.page === "slide") {
    void showSlide(main, live, route.key, until);
    return;
  }
  drawBar(live);
  if (route.page === "patient") showPatient(main, live, route.id, until);
  else showCohort(main, live, route.page, until);
  main.append(researchNotice(live));
}

function titleOf(live: Live, route: ReturnType<typeof readRoute>): string {
  const { title } = live.cohort;
  if (route.page === "slide")
    return `${live.entry(route.key)?.slide_id ?? "slide"} \u2013 ${title}`;
  const name = route.page === "patient" ? route.id : route.page;
  return `${name} \u2013 ${title}`;
}

function showFailure(reason: unknown): void {
  const text = reason instanceof Error ? reason.message : String(reason);
  const again = make("button", { class: "button primary" }, "Try again");
  again.addEventListener("click", () => void start());
  const title = make("h1", {}, "No response from the viewer's server");
  const hint = reason instanceof ServerError ? reason.hint : "Is digipath view still running?";
  fill(
    find("main"),
    make(
      "section",
      { class: "card error-card" },
      title,
      make("p", {}, text),
      make("p", {}, hint),
      again,
    ),
  );
}

void start();
