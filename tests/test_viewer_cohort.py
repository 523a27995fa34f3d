"""The viewer's tables of slides and patients, used in Chromium as a person would."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.collection.entries import blank_entry
from tests.browser import Tab
from tests.finished_runs import Made
from tests.viewing import UNNAMED, begin_run, land, viewing, write_gradient

pytestmark = pytest.mark.browser

STAGES = ("pN2", "pN0(i+)", "pN1", "pN1mi", "pN0")
"""Of the told patients, in turn."""


def told_slide(number: int) -> dict[str, Any]:
    row = SlideRow(
        slide_id=f"slide_{number}",
        path="absent.tif",
        patient_id=f"p{number // 5}",
        node=str(number % 5),
    )
    known = {"status": "done", "metastasis": "micro", "unsure": number / 1e6}
    return {**blank_entry(row, thumbnail=True), **known}


def told_patient(number: int, slides: list[dict[str, Any]]) -> dict[str, Any]:
    nodes = [{k: s[k] for k in ("key", "node", "metastasis")} for s in slides]
    return {
        "patient_id": f"p{number}",
        "pn_stage": STAGES[number % len(STAGES)],
        "complete": number % 2 == 0,
        "rule": "the rule",
        "missing": "" if number % 2 == 0 else "one node is missing",
        "notes": [],
        "nodes": [{**node, "votes": []} for node in nodes],
    }


def tell(page: Page, number: int, **about: Any) -> None:
    """Let the page be told of so many slides, five of each patient."""
    entries = [told_slide(i) for i in range(number)]
    cohort = {
        "title": "told",
        "kind": "run",
        "research_use": "Research use only.",
        "ending": "stage",
        "notes": [],
        "allow_run": False,
        "status": None,
        "slides": entries,
        "patients": [
            told_patient(i // 5, entries[i : i + 5]) for i in range(0, number, 5)
        ],
        "runs": ["a"],
        "run_titles": {"a": "told"},
        **about,
    }
    answer(page, "**/api/cohort", json.dumps(cohort), "application/json")
    answer(page, "**/api/events*", "retry: 1000000\n\n", "text/event-stream")
    answer(page, "**/thumbnail.jpg*", "", "image/jpeg")


def answer(page: Page, pattern: str, body: str, kind: str) -> None:
    def fulfill(route: Route) -> None:
        route.fulfill(body=body, content_type=kind)

    page.route(pattern, fulfill)


def patients(page: Page) -> list[str]:
    return page.locator("table.patients tbody .name").all_inner_texts()


def test_patients_are_sorted_by_gravity_filtered_and_searched(
    tab: Tab, address: str
) -> None:
    tell(tab.page, 25)
    tab.page.goto(f"{address}#/patients")
    expect(tab.page.locator("table.patients tbody tr")).to_have_count(5)
    head = tab.page.locator("th.of-pn")
    head.get_by_role("button").click()
    assert patients(tab.page) == ["p0", "p2", "p3", "p1", "p4"]
    expect(head).to_have_attribute("aria-sort", "descending")
    tab.page.get_by_role("button", name="Incomplete").click()
    assert patients(tab.page) == ["p3", "p1"]
    tab.page.get_by_role("searchbox").fill("p1")
    assert patients(tab.page) == ["p1"]
    tab.page.get_by_role("searchbox").fill("nobody")
    expect(tab.page.get_by_text("No patient matches")).to_be_visible()
    tab.page.get_by_role("button", name="Show all").click()
    assert len(patients(tab.page)) == 5
    assert tab.complaints == []


def test_nodes_are_worded_by_what_they_are(tab: Tab, address: str) -> None:
    slides = [told_slide(i) for i in range(4)]
    said = [
        {"metastasis": None, "verdict_label": "tumor burden, 42 %", "burden": 0.42},
        {"metastasis": None, "status": "running", "progress": 0.5},
        {"metastasis": None, "status": "waiting"},
        {"metastasis": None, "status": "failed"},
    ]
    slides = [{**slide, **more} for slide, more in zip(slides, said, strict=True)]
    patient = {**told_patient(0, slides), "pn_stage": None}
    tell(tab.page, 0, slides=slides, patients=[patient], ending="burden")
    tab.page.goto(f"{address}#/patients")
    chips = tab.page.locator("table.patients .chip")
    expect(chips).to_have_text(
        ["0: tumor burden, 42 %", "1: running", "2: waiting", "3: failed"]
    )
    expect(tab.page.locator("table.patients .chip.failed")).to_have_count(1)
    expect(tab.page.locator("th.of-pn")).to_have_count(0)


def test_ten_thousand_slides_are_listed_at_once(tab: Tab, address: str) -> None:
    tell(tab.page, 10_000)
    with tab.page.expect_request("**/thumbnail.jpg*"):
        tab.page.goto(address)
    rows = tab.page.locator("table.slides tbody tr")
    expect(rows).to_have_count(100)
    assert 0 < sum("thumbnail" in url for url in tab.requests) < 30  # those in sight
    tab.page.get_by_role("button", name="Uncertain first").click()
    expect(rows.first.locator(".name")).to_have_text("slide_9999")
    pressed = tab.page.get_by_role("button", name="Uncertain first")
    expect(pressed).to_have_attribute("aria-pressed", "true")
    ms = tab.page.evaluate(
        "() => { const begun = performance.now();"
        " document.querySelector('th.of-slide button').click();"
        " return performance.now() - begun; }"
    )
    assert ms < 500
    rows.last.scroll_into_view_if_needed()
    expect(rows).not_to_have_count(100)


def test_focus_outlasts_a_slide_that_lands(tab: Tab, tmp_path: Path) -> None:
    running = begin_run(tmp_path)
    with viewing(running.root) as (address, _):
        tab.page.goto(address)
        link = tab.page.get_by_role("link", name="s1", exact=True)
        expect(tab.page.get_by_text("No slide is done yet.")).to_be_visible()
        link.focus()
        land(running, Made(slide_id="s1", lesions=((1500, 1500, 700, 0.95),)))
        row = tab.page.locator("tr", has=link)
        expect(row).to_contain_text("done", timeout=20_000)
        expect(link).to_be_focused()
        said = tab.page.locator("#announcer")
        expect(said).to_have_text("1 slide done", timeout=15_000)


def test_failures_that_have_no_name_are_told(tab: Tab, address: str) -> None:
    status = {"state": "running", "phase": "segment", "slides": 200, "failed": 150}
    numbers = ("slides_per_h", "patches_per_s", "eta_s", "bottleneck", "why")
    status |= {
        "unnamed": 50,
        "patches": 10,
        "patches_done": 5,
        **dict.fromkeys(numbers),
    }
    slides = [{**told_slide(0), "status": "failed"}]
    tell(tab.page, 0, slides=slides, patients=[], status=status)
    tab.page.goto(address)
    progress = tab.page.locator(".run-progress-done")
    expect(progress).to_contain_text("1 failed and 50 more failed")


def told_event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def test_a_server_with_another_token_is_shown_it(tab: Tab, address: str) -> None:
    tell(tab.page, 5)
    tab.page.route("**/api/events*", lambda route: route.fulfill(status=401))
    tab.page.goto(address)
    rows = tab.page.locator("table.slides tbody tr")
    expect(rows).to_have_count(5)
    refusal = {"status": 401, "json": {"error": "the token is missing", "hint": ""}}
    tab.page.route("**/api/cohort", lambda route: route.fulfill(**refusal))
    expect(tab.page.get_by_label("Token")).to_be_visible(timeout=15_000)


def test_events_that_were_refused_begin_with_the_cohort_anew(
    tab: Tab, address: str
) -> None:
    tell(tab.page, 5)
    tab.page.route("**/api/events*", lambda route: route.fulfill(status=500))
    with tab.page.expect_response("**/api/events*"):
        tab.page.goto(address)
    rows = tab.page.locator("table.slides tbody tr")
    expect(rows).to_have_count(5)
    tell(tab.page, 3, state="later")
    expect(rows).to_have_count(3, timeout=15_000)
    expect(tab.page.locator("table.slides")).not_to_contain_text("slide_4")
    assert any(url.endswith("/api/events?since=later") for url in tab.requests)


def test_events_go_on_where_they_ended(tab: Tab, address: str) -> None:
    tell(tab.page, 5, state="s0")
    cohort: dict[str, Any] = {
        "title": "told",
        "kind": "run",
        "ending": "stage",
        "notes": [],
    }
    cohort |= {"runs": ["a"], "run_titles": {"a": "told"}, "status": None}
    said = [
        "retry: 1000000\n\n",
        told_event("cohort", {**cohort, "whole": True}),
        told_event("slides", [told_slide(0), told_slide(1)]),
        told_event("patients", []),
        "id: s1\n\n",
        told_event("slides", [told_slide(7)]),  # one more, and none is gone
    ]
    answer(tab.page, "**/api/events*", "".join(said), "text/event-stream")
    tab.page.goto(address)
    rows = tab.page.locator("table.slides tbody tr")
    expect(rows).to_have_count(3)
    with tab.page.expect_request(lambda asked: "since=s1" in asked.url):
        for hidden in ("true", "false"):
            tab.page.evaluate(
                "hidden => { Object.defineProperty(document, 'hidden',"
                " { value: hidden === 'true', configurable: true });"
                " document.dispatchEvent(new Event('visibilitychange')); }",
                hidden,
            )
    expect(rows).to_have_count(3)
    asked = [url.partition("?")[2] for url in tab.requests if "/api/events" in url]
    assert asked == ["since=s0", "since=s1"]


def test_the_next_run_is_named_as_the_server_says(tab: Tab, address: str) -> None:
    tell(tab.page, 1, allow_run=True)
    jobs = {"jobs": [], "presets": ["demo"], "out": "free-name-3"}
    answer(tab.page, "**/api/jobs", json.dumps(jobs), "application/json")
    tab.page.goto(address)
    tab.page.get_by_label("Select slide_0", exact=True).check()
    tab.page.get_by_role("button", name="Start a run of 1 slide").click()
    name = tab.page.get_by_label("Name of the new run")
    expect(name).to_have_value("free-name-3")


def test_a_run_is_queued_and_canceled(tab: Tab, tmp_path: Path) -> None:
    write_gradient(tmp_path / "slide.tif")
    with viewing(tmp_path, "--allow-run") as (address, _):
        tab.page.goto(address)
        tab.page.get_by_label("Select slide", exact=True).check()
        tab.page.get_by_role("button", name="Start a run of 1 slide").click()
        tab.page.get_by_label("Preset").select_option("demo")
        tab.page.get_by_label("Weights").fill("random")
        out = tab.page.get_by_label("Name of the new run")
        out.fill("../elsewhere")
        tab.page.get_by_role("button", name="Start", exact=True).click()
        expect(tab.page.locator("#wrong-out")).to_contain_text("letters")
        expect(out).to_be_focused()
        out.fill(f"{tmp_path.name}-canceled")
        tab.page.get_by_role("button", name="Start", exact=True).click()
        job = tab.page.locator(".jobs li")
        expect(job).to_contain_text("demo, 1 slide")
        job.get_by_role("button", name="Cancel").click()
        expect(job).to_contain_text("canceled")


def test_a_change_of_page_is_said_and_has_the_focus(tab: Tab, address: str) -> None:
    tab.page.goto(address)
    tab.page.get_by_role("link", name="Patients").click()
    expect(tab.page.locator("main")).to_be_focused()
    expect(tab.page.locator("#announcer")).to_contain_text("patients")
    assert tab.page.title().startswith("patients")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("route", ["#/", "#/patients", "#/patient/p1"])
def test_pages_are_named_ordered_and_readable(
    tab: Tab, address: str, run: RunDirectory, theme: Any, route: str
) -> None:
    tab.page.emulate_media(color_scheme=theme)
    tab.page.goto(address + route)
    expect(tab.page.locator("main h1")).to_have_count(1)
    expect(tab.page.locator("main table, main .nodes").first).to_be_visible()
    assert tab.page.evaluate(UNNAMED) == []
    assert tab.page.evaluate(SAME_IDS) == []
    levels = tab.page.evaluate(HEADINGS)
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert tab.page.evaluate(PALE) == []


SAME_IDS = """() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  return ids.filter((id, i) => ids.indexOf(id) !== i); }"""
HEADINGS = """[...document.querySelectorAll('h1, h2, h3, h4')]
  .filter(e => e.checkVisibility()).map(e => Number(e.tagName[1]))"""
PALE = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = color.slice(0, 3)
    .map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) {
    const color = rgb(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color; } return [255, 255, 255]; };
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll('body *')]
    .filter(e => own(e) && e.checkVisibility())
    .filter(e => !e.closest('script, noscript, :disabled'))
    .filter(e => { const a = light(rgb(getComputedStyle(e).color));
      const b = light(ground(e));
      return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; })
    .map(e => e.outerHTML.slice(0, 200)); }"""
"""Texts whose contrast with what lies below them is under 4.5."""
