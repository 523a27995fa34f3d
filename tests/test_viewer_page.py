"""The viewer's page, used in Chromium as a person would, on the real server."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.collection.entries import key_of
from tests.browser import Tab
from tests.finished_runs import HEIGHT, WIDTH, Made, failure_of
from tests.viewing import (
    INSIDE,
    OUTSIDE,
    UNNAMED,
    begin_run,
    land,
    read_number,
    viewed_run,
    viewing,
)

pytestmark = pytest.mark.browser


def rows(page: Page) -> list[str]:
    return page.locator("table.slides tbody .name").all_inner_texts()


# The cohort


def test_what_needs_attention_comes_first_in_one_click(tab: Tab, address: str) -> None:
    tab.page.goto(address)
    expect(tab.page.locator("table.slides tbody tr")).to_have_count(3)
    assert rows(tab.page) == ["bad", "with", "without"]  # by name
    tab.page.get_by_role("button", name="Slide", exact=True).click()
    assert rows(tab.page) == ["without", "with", "bad"]
    tab.page.get_by_role("button", name="Failures first").click()
    assert rows(tab.page)[0] == "bad"
    expect(tab.page.get_by_text("the file is cut short")).to_be_visible()
    assert tab.complaints == []


def test_slides_are_searched_and_filtered(tab: Tab, address: str) -> None:
    tab.page.goto(address)
    expect(tab.page.locator("table.slides tbody tr")).to_have_count(3)
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("without")
    assert rows(tab.page) == ["without"]
    tab.page.get_by_role("searchbox").fill("")
    tab.page.get_by_role("button", name=re.compile("Failed")).click()
    assert rows(tab.page) == ["bad"]


def test_slides_land_on_an_open_page(tab: Tab, tmp_path: Path) -> None:
    running = begin_run(tmp_path)
    with viewing(running.root) as (address, _):
        tab.page.goto(address)
        row = tab.page.locator("tr", has=tab.page.get_by_text("s1", exact=True))
        expect(row).to_contain_text("waiting")
        land(running, Made(slide_id="s1", lesions=((1500, 1500, 700, 0.95),)))
        expect(row).to_contain_text("done", timeout=20_000)
        expect(tab.page.locator(".run-progress-done")).to_contain_text("1 of 3")
    loads = [url for url in tab.requests if url.endswith("/api/cohort")]
    assert len(loads) == 1  # no reload


def test_names_are_text_whatever_they_hold(tab: Tab, tmp_path: Path) -> None:
    odd = "<img src=x onerror=alert(1)>&amp;\N{SNOWMAN}"
    failed = viewed_run(tmp_path, failures=[failure_of("s\N{SNOWMAN}&amp;", odd)])
    with viewing(failed.root) as (address, _):
        tab.page.goto(address)
        expect(tab.page.locator(".name", has_text="s\N{SNOWMAN}&amp;")).to_be_visible()
        tab.page.get_by_role("link", name=odd).click()
        expect(tab.page.get_by_role("heading", name=odd)).to_be_visible()
        assert tab.page.locator("img[src=x]").count() == 0


def test_a_token_is_taken_from_the_address_and_dropped(
    tab: Tab, run: RunDirectory
) -> None:
    with viewing(run.root, "--host", "0.0.0.0") as (told, _):
        _, _, rest = told.partition("//")
        port, _, token = rest.rpartition(":")[2].partition("/#token=")
        site = f"http://127.0.0.1:{port}/"
        tab.page.goto(site)
        expect(tab.page.get_by_label("Token")).to_be_visible()
        tab.page.goto("about:blank")
        tab.page.goto(f"{site}#token={token}")
        expect(tab.page.locator("table.slides tbody tr")).to_have_count(3)
        assert token not in tab.page.url


# A slide


def test_the_threshold_hides_what_is_below_it(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.page.locator("[data-role=outlines]").uncheck()
    shown, beside = tab.color(INSIDE), tab.color(OUTSIDE)
    asked = len(tab.requests)
    tab.slide("threshold", 0.97)
    hidden = tab.color(INSIDE)
    tab.slide("threshold", 0.9)
    assert tab.color(INSIDE) == shown != hidden
    assert tab.color(OUTSIDE) == beside
    # The bare slide: red and green grow to the right and downward.
    bare = (255 * 1500 / WIDTH, 255 * 1500 / HEIGHT, 90)
    assert np.allclose(hidden, bare, atol=8)
    tab.slide("threshold", 0)
    assert tab.color(OUTSIDE) != beside  # 0 was predicted there
    assert len(tab.requests) == asked  # all of that without the server
    assert tab.complaints == []


def test_opacity_and_colormap_are_those_chosen(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.slide("opacity", 100)
    assert np.allclose(tab.color(INSIDE), (223, 227, 24), atol=9)  # viridis at 0.95
    tab.page.locator("[data-role=colormap]").first.select_option("magma")
    tab.settle()
    assert np.allclose(tab.color(INSIDE), (253, 231, 170), atol=16)
    tab.slide("opacity", 0)
    bare = (255 * 1500 / WIDTH, 255 * 1500 / HEIGHT, 90)
    assert np.allclose(tab.color(INSIDE), bare, atol=8)


def test_a_lesion_in_the_list_leads_there(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.page.locator("[data-lesion='1']").click()
    tab.settle()
    middle = tab.place(WIDTH / 2, HEIGHT / 2)
    tab.page.mouse.move(*middle)
    place = tab.page.locator(".readout .place")
    expect(place).to_have_text(re.compile(r"x 1,(49|50)\d  y 1,(49|50)\d"))
    value = tab.page.locator("[data-value='a/probability']")
    expect(value).to_have_text("0.95")


def test_a_distance_and_an_area_are_measured(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    corners = [(1000, 1000), (2000, 1000), (2000, 2000), (1000, 2000)]
    note = tab.page.locator(".readout .aside")
    tab.page.keyboard.press("m")
    for corner in corners[:2]:
        tab.page.mouse.click(*tab.place(*corner))
        tab.page.wait_for_timeout(400)  # two clicks, not one that is double
    tab.page.keyboard.press("m")
    assert read_number(note.inner_text(), "mm") == pytest.approx(1.0, rel=0.01)
    tab.page.keyboard.press("a")
    for corner in corners:
        tab.page.mouse.click(*tab.place(*corner))
        tab.page.wait_for_timeout(400)
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("Escape")
    assert read_number(note.inner_text(), "mm\N{SUPERSCRIPT TWO}") == pytest.approx(
        1.0, rel=0.02
    )


def test_a_swipe_shows_each_layer_on_its_side(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.page.locator("[data-role=outlines]").uncheck()
    tab.slide("opacity", 100)
    tab.page.keyboard.press("s")
    tab.page.locator("[data-side=right]").select_option("")
    line = tab.page.get_by_role("slider", name="Line between the two layers")
    line.focus()
    bare = (255 * 1500 / WIDTH, 255 * 1500 / HEIGHT, 90)
    assert not np.allclose(tab.color(INSIDE), bare, atol=8)  # left of the middle
    for _ in range(12):
        line.press("ArrowLeft")
    tab.settle()
    assert np.allclose(tab.color(INSIDE), bare, atol=8)


def test_two_views_move_as_one(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.page.keyboard.press("d")
    panes = tab.page.locator(".pane")
    expect(panes).to_have_count(2)
    tab.page.locator("[data-side=right]").select_option("a/probability")
    tab.page.locator("[data-side=left]").select_option("a/probability")
    box = panes.first.bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + 100, box["y"] + 300)
    tab.page.mouse.wheel(0, -500)
    tab.settle()
    bars = tab.page.locator(".scale-bar")
    widths = [bars.nth(i).evaluate("e => e.style.width") for i in (0, 1)]
    assert widths[0] == widths[1]


def test_exports_are_files_to_work_with(
    tab: Tab, address: str, run: RunDirectory, tmp_path: Path
) -> None:
    tab.open_slide(address, "with")
    (tmp_path / "run").mkdir()

    def save(name: str) -> Path:
        link = tab.page.get_by_role("link", name=name, exact=True)
        return tab.save(link.click, tmp_path / "run")

    outlines = json.loads(save("GeoJSON").read_text())
    assert [f["geometry"]["type"] for f in outlines["features"]] == ["Polygon"]
    stored = read_heatmap(run.heatmap("with"))
    sent = read_heatmap(save("OME-TIFF"))
    np.testing.assert_array_equal(sent.probability, stored.probability)
    assert save("CSV").read_text().count("\n") >= 2
    picture = tab.save(lambda: tab.page.keyboard.press("p"), tmp_path)
    assert picture.name == "with.png"
    box = tab.page.locator(".views").bounding_box()
    assert box is not None
    with Image.open(picture) as image:
        assert image.width == pytest.approx(box["width"], abs=2)
        assert image.height > box["height"]  # the legend lies below
        scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
        x = box["width"] / 2 + (INSIDE[0] - WIDTH / 2) * scale
        y = box["height"] / 2 + (INSIDE[1] - HEIGHT / 2) * scale
        drawn = image.convert("RGB").getpixel((int(x), int(y)))
    assert np.allclose(drawn, tab.color(INSIDE), atol=12)


def test_a_failed_slide_says_why(tab: Tab, address: str) -> None:
    tab.page.goto(f"{address}#/slide/{key_of('bad')}")
    expect(tab.page.get_by_role("alert")).to_contain_text("the slide's file is missing")
    tab.page.goto(f"{address}#/slide/0000000000000000")
    expect(tab.page.get_by_role("alert")).to_contain_text("cannot be shown")


# Everywhere


@pytest.mark.parametrize("width", [1280, 820])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_the_screen_and_use_both_themes(
    chromium: Browser, address: str, width: int, theme: Any
) -> None:
    size = {"width": width, "height": 900}
    context = chromium.new_context(viewport=size, color_scheme=theme)
    tab = Tab(context.new_page())
    for route in ("#/", "#/patients", f"#/slide/{key_of('with')}", "#/patient/p1"):
        tab.page.goto(address + route)
        shown = {"#/": "table", "#/patients": "table.patients"}
        shown[f"#/slide/{key_of('with')}"] = ".scale-bar"
        expect(tab.page.locator(shown.get(route, ".big-stage")).first).to_be_visible()
        wide = tab.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, route
        unnamed = tab.page.evaluate(UNNAMED)
        assert unnamed == [], route
    assert tab.page.evaluate("document.documentElement.dataset.theme") == theme
    assert tab.complaints == []
    context.close()
