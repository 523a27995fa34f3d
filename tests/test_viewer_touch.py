"""The viewer's page on a tablet, and turned and mirrored, in Chromium."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from playwright.sync_api import Browser, Locator, Route, expect

from digipath_ray.outcome.qupath import feature, write_features
from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.collection.entries import key_of
from tests.browser import Tab, color_of, pixels_of
from tests.finished_runs import HEIGHT, WIDTH, Made
from tests.viewing import INSIDE, OUTSIDE, begin_run, land, read_number, viewing

pytestmark = pytest.mark.browser

SQUARE = [(1000, 1000), (2000, 1000), (2000, 2000), (1000, 2000)]
FINGER_PX = 44
AGAIN_S = 4.0
"""The page reloads outdated layers no more often."""
LANDED = Made(slide_id="s1", lesions=((1500, 1500, 700, 0.95),))


@pytest.fixture
def tablet(chromium: Browser) -> Iterator[Tab]:
    context = chromium.new_context(
        viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True
    )
    yield Tab(context.new_page())
    context.close()


def tap(tablet: Tab, point: tuple[float, float], *, off: int = 0) -> None:
    """Tap a point of the slide, `off` px beside it; long after the tap before."""
    x, y = tablet.place(*point)
    tablet.page.wait_for_timeout(400)
    tablet.page.touchscreen.tap(x + off, y + off)


def draw_square(tablet: Tab) -> Locator:
    """The corners of 1 mm2 are tapped; where what they measure will be said."""
    tablet.page.get_by_role("button", name="Measure an area (A)").tap()
    for corner in SQUARE:
        tap(tablet, corner)
    return tablet.page.locator(".readout .aside")


def area_of(note: Locator) -> float:
    unit = "mm\N{SUPERSCRIPT TWO}"
    expect(note).to_have_text(re.compile(rf"^[\d.,]+ {unit}$"))
    return read_number(note.inner_text(), unit)


@pytest.mark.parametrize("how", ["first corner", "double tap", "button"])
def test_an_area_is_closed_by_touch(tablet: Tab, address: str, how: str) -> None:
    tablet.open_slide(address, "with")
    bar = tablet.page.locator(".scale-bar")
    scale = bar.evaluate("e => e.style.width")
    button = tablet.page.get_by_role("button", name="Measure an area (A)")
    note = draw_square(tablet)
    if how == "first corner":
        tap(tablet, SQUARE[0], off=9)
    elif how == "double tap":
        x, y = tablet.place(*SQUARE[3])
        tablet.page.wait_for_timeout(400)
        tablet.page.touchscreen.tap(x, y)
        tablet.page.touchscreen.tap(x, y)
    if how != "button":
        tap(tablet, (3000, 2500))  # begins another area, too small to be kept
    button.tap()
    assert area_of(note) == pytest.approx(1.0, rel=0.03)
    assert bar.evaluate("e => e.style.width") == scale  # nothing zoomed
    assert tablet.complaints == []


def test_a_double_click_with_a_tool_never_zooms(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    bar = tab.page.locator(".scale-bar")
    scale = bar.evaluate("e => e.style.width")
    tab.page.keyboard.press("m")
    tab.page.mouse.dblclick(*tab.place(1000, 1000))
    tab.page.mouse.dblclick(*tab.place(2000, 1000))
    tab.page.wait_for_timeout(700)  # as long as a zoom would last
    tab.page.keyboard.press("m")
    note = tab.page.locator(".readout .aside").inner_text()
    assert read_number(note, "mm") == pytest.approx(1.0, rel=0.01)
    assert bar.evaluate("e => e.style.width") == scale
    tab.page.mouse.dblclick(*tab.place(*INSIDE))
    tab.settle()
    assert bar.evaluate("e => e.style.width") != scale


def test_a_tap_shows_its_values_and_they_stay(tablet: Tab, address: str) -> None:
    tablet.open_slide(address, "with")
    tap(tablet, INSIDE)
    value = tablet.page.locator("[data-value='a/probability']")
    expect(value).to_have_text("0.95")
    tablet.page.wait_for_timeout(500)
    expect(value).to_have_text("0.95")


@pytest.mark.parametrize("width", [820, 768])
def test_a_tablet_reaches_all_with_a_finger(
    tablet: Tab, address: str, width: int
) -> None:
    tablet.page.set_viewport_size({"width": width, "height": 1180})
    tablet.open_slide(address, "with")
    small = tablet.page.evaluate(SMALL, FINGER_PX)
    assert small == []
    box = tablet.page.locator("[data-layer='a/probability'] [data-role=threshold]")
    box.scroll_into_view_if_needed()
    place = box.bounding_box()
    assert place is not None
    assert place["x"] + place["width"] <= width
    at = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    assert tablet.page.evaluate(TOPMOST, list(at)) == "threshold"
    assert tablet.page.evaluate("document.documentElement.scrollWidth") <= width


SMALL = """least => [...document.querySelectorAll(
    '.toolbar button, .bar a.quiet-button, .bar button, .panel button, .panel select,'
    + ' .panel a.button, .panel summary, .panel .layer-name')]
  .filter(e => e.offsetParent && !e.classList.contains('chosen'))
  .filter(e => e.getBoundingClientRect().height < least - 0.5)
  .map(e => e.outerHTML.slice(0, 120))"""
TOPMOST = "([x, y]) => document.elementFromPoint(x, y).dataset.role"


# Turned and mirrored


@pytest.mark.parametrize("keys", ["r", "f", "fr", "rf"])
def test_layers_and_readout_follow_the_picture(
    tab: Tab, address: str, keys: str
) -> None:
    tab.open_slide(address, "with")
    tab.page.locator("[data-role=outlines]").uncheck()
    for key in keys:
        tab.page.keyboard.press(key)
    tab.settle()
    tab.slide("opacity", 0)
    bare = pixels_of(tab.page.screenshot())
    tab.slide("opacity", 100)
    colored = np.abs(pixels_of(tab.page.screenshot()) - bare).max(axis=2) > 40
    box = tab.page.locator(".pane").bounding_box()
    assert box is not None
    left, top = int(box["x"]), int(box["y"])
    pane = np.s_[top : top + int(box["height"]), left : left + int(0.7 * box["width"])]
    rows, cols = np.nonzero(colored[pane])
    x, y = points_of(bare[pane][rows, cols])
    far = np.hypot(x - INSIDE[0], y - INSIDE[1])
    assert len(far) > 5000
    assert np.mean(far < 1100) > 0.99  # what is colored is the lesion
    middle = len(rows) // 2
    tab.page.mouse.move(left + int(cols[middle]), top + int(rows[middle]))
    said = tab.page.locator(".readout .place")
    expect(said).to_have_text(re.compile(r"^x [\d,.]+  y [\d,.]+"))
    found = re.findall(r"[\d,.]+", said.inner_text())
    numbers = [float(number.replace(",", "")) for number in found]
    assert np.allclose(numbers, [x[middle], y[middle]], atol=60)


def points_of(colors: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Where on the slide its colors are: red grows to the right and green downward."""
    return colors[..., 0] * (WIDTH / 255), colors[..., 1] * (HEIGHT / 255)


def test_a_mirrored_view_turns_and_moves_as_it_is_seen(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.page.locator("[data-role=outlines]").uncheck()
    tab.slide("opacity", 0)
    corner = tab.place(WIDTH / 2, HEIGHT / 2)
    left_above = int(corner[0]) - 250, int(corner[1]) - 200

    def color(at: tuple[int, int]) -> tuple[int, ...]:
        return tuple(pixels_of(tab.page.screenshot())[at[1], at[0], :2].tolist())

    assert max(color(left_above)) < 127
    tab.page.keyboard.press("f")
    tab.settle()
    red, green = color(left_above)
    assert red > 127 > green  # left for right
    tab.page.keyboard.press("r")
    tab.settle()
    assert min(color(left_above)) > 127  # from below on the left to above on the left
    tab.page.keyboard.press("+")
    tab.settle()
    before = color((int(corner[0]), int(corner[1])))
    tab.page.keyboard.press("ArrowRight")
    tab.settle()
    after = color((int(corner[0]), int(corner[1])))
    assert after[1] < before[1] - 5  # the right is now the slide's upper end


@pytest.mark.parametrize("keys", ["", "f", "fr"])
def test_what_two_fingers_hold_stays_under_them(
    tablet: Tab, address: str, keys: str
) -> None:
    tablet.open_slide(address, "with")
    tablet.page.locator("[data-role=outlines]").uncheck()
    tablet.slide("opacity", 0)
    for key in [*keys, "+", "+"]:
        tablet.page.keyboard.press(key)
    tablet.settle()
    x, y = (int(v) for v in tablet.place(WIDTH / 2, HEIGHT / 2))
    begun = [(x - 120, y - 40), (x + 20, y - 40)]
    ended = [(x - 100, y - 10), (x + 110, y - 10)]  # 1.5 times as far apart

    def held(fingers: list[tuple[int, int]]) -> list[tuple[NDArray[np.float64], ...]]:
        shot = tablet.page.screenshot()
        return [points_of(np.array(color_of(shot, *at))) for at in fingers]

    before = held(begun)
    pinch(tablet, begun, ended)
    tablet.settle()
    assert np.allclose(held(ended), before, atol=60)


def pinch(
    tablet: Tab, begun: list[tuple[int, int]], ended: list[tuple[int, int]]
) -> None:
    """Move two fingers; they rest before they are lifted, so that nothing glides on."""
    devtools = tablet.page.context.new_cdp_session(tablet.page)

    def touch(kind: str, points: NDArray[np.float64]) -> None:
        told = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points.tolist())]
        said = {"type": kind, "touchPoints": told}
        devtools.send("Input.dispatchTouchEvent", said)
        tablet.page.wait_for_timeout(30)

    start, way = np.array(begun, float), np.subtract(ended, begun)
    touch("touchStart", start)
    for part in [*np.linspace(0.1, 1, 10), *[1.0] * 6]:
        touch("touchMove", start + part * way)
    touch("touchEnd", np.empty((0, 2)))


# What stays


def test_looks_hold_on_the_next_slide_and_visit(tab: Tab, address: str) -> None:
    tab.open_slide(address, "with")
    tab.slide("threshold", 0.7)
    tab.page.keyboard.press("<")
    tab.page.keyboard.press("o")
    tab.page.keyboard.press("j")
    expect(tab.page.get_by_role("heading", name="without")).to_be_visible()
    threshold = tab.page.locator("[data-layer='a/probability'] [data-role=threshold]")
    expect(threshold).to_have_value(re.compile(r"^0\.(69|70)"))
    tab.page.reload()
    expect(threshold).to_have_value(re.compile(r"^0\.(69|70)"))
    said = tab.page.locator("[data-layer='a/probability'] output").first
    expect(said).to_have_text("45 %")
    tab.page.keyboard.press("k")
    expect(tab.page.get_by_role("heading", name="with", exact=True)).to_be_visible()
    expect(tab.page.locator("[data-role=outlines]")).not_to_be_checked()


def test_a_slide_that_lands_leaves_the_view_alone(tab: Tab, tmp_path: Path) -> None:
    running = begin_run(tmp_path)
    with viewing(running.root) as (address, _):
        tab.open_slide(address, "s1")
        tab.page.keyboard.press("r")
        tab.page.keyboard.press("+")
        tab.page.keyboard.press("m")
        tab.settle()
        bar = tab.page.locator(".scale-bar")
        scale = bar.evaluate("e => e.style.width")
        button = tab.page.get_by_role("button", name="Measure a distance (M)")
        button.focus()
        land(running, LANDED)
        layer = tab.page.locator("[data-layer='a/probability']")
        expect(layer).to_be_visible(timeout=20_000)
        assert bar.evaluate("e => e.style.width") == scale
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(button).to_be_focused()
    opened = [url for url in tab.requests if url.endswith(key_of("s1"))]
    assert len(opened) == 2  # once more, when it had landed


# What becomes of a slide that is shown


def outline(run: RunDirectory) -> None:
    """The lesion of s1, as its run outlines it."""
    lesion = feature(
        shapely.box(800, 800, 2200, 2200),
        class_name="Tumor",
        color=(200, 0, 0),
        name="lesion 1",
        measurements={},
    )
    write_features(run.lesions("s1"), [lesion])


def test_outlines_go_with_the_results_that_they_are_of(
    tab: Tab, tmp_path: Path
) -> None:
    running = begin_run(tmp_path)
    outline(running)
    land(running, LANDED)
    with viewing(running.root) as (address, _):
        tab.open_slide(address, "s1")
        legend = tab.page.locator(".legend")
        expect(legend).to_contain_text("lesions, outlined at")
        running.done("s1").unlink()
        layer = tab.page.locator("[data-layer='a/probability']")
        expect(layer).to_have_count(0, timeout=20_000)
        expect(legend).not_to_contain_text("lesions")


def test_a_slide_lands_in_the_second_run(tab: Tab, tmp_path: Path) -> None:
    first, second = begin_run(tmp_path / "one"), begin_run(tmp_path / "two")
    for one in (first, second):
        outline(one)
    land(first, LANDED)
    with viewing(first.root, "--against", second.root) as (address, _):
        tab.open_slide(address, "s1")
        exports = tab.page.locator(".exports")
        expect(exports).to_have_count(1)
        legend = tab.page.locator(".legend")
        expect(legend).to_contain_text("lesions, outlined at")
        land(second, LANDED)
        layer = tab.page.locator("[data-layer='b/probability']")
        expect(layer).to_be_visible(timeout=20_000)
        expect(exports).to_have_count(2)
        hrefs = [
            link.get_attribute("href") for link in exports.nth(1).locator("a").all()
        ]
        assert len(hrefs) == 3
        assert all(href and href.endswith("?run=b") for href in hrefs)
        expect(legend).to_contain_text("lesions of a")
        expect(legend).to_contain_text("lesions of b")


@pytest.mark.parametrize("status", [429, 500, 0])
def test_a_slide_that_cannot_be_read_again_is_tried_again(
    tab: Tab, tmp_path: Path, status: int
) -> None:
    running = begin_run(tmp_path)
    with viewing(running.root) as (address, _):
        tab.open_slide(address, "s1")
        refused: list[str] = []

        def refuse_once(route: Route) -> None:
            refused.append(route.request.url)
            if len(refused) > 1:
                route.continue_()
            elif status:
                route.fulfill(status=status, body="{}")
            else:
                route.abort()

        tab.page.route(f"**/api/slides/{key_of('s1')}", refuse_once)
        land(running, LANDED)
        layer = tab.page.locator("[data-layer='a/probability']")
        expect(layer).to_be_visible(timeout=20_000)
        assert len(refused) == 2


def test_a_slide_that_has_left_is_closed(tab: Tab, tmp_path: Path) -> None:
    running = begin_run(tmp_path)
    with viewing(running.root) as (address, _):
        tab.open_slide(address, "s1")
        gone = f"**/api/slides/{key_of('s1')}"
        tab.page.route(gone, lambda route: route.fulfill(status=404, body="{}"))
        land(running, LANDED)
        alert = tab.page.get_by_role("alert")
        expect(alert).to_contain_text("was removed from the cohort", timeout=20_000)
        expect(tab.page.locator(".pane")).to_have_count(0)
        tab.page.unroute(gone)
        land(running, Made(slide_id="s1", lesions=((1500, 1500, 500, 0.9),)))
        expect(tab.page.locator(".pane")).to_have_count(1, timeout=20_000)


def test_what_was_missing_is_not_told_any_more_once_it_is_here(
    tab: Tab, address: str
) -> None:
    tab.page.route("**/maps/**", lambda route: route.fulfill(status=500, body=""))
    tab.page.goto(f"{address}#/slide/{key_of('with')}")
    trouble = tab.page.locator(".readout .trouble")
    expect(trouble).to_contain_text("Incomplete: tumor probability: 500")
    shown = tab.page.locator("[data-layer='a/probability'] input[type=checkbox]")
    shown.uncheck()
    expect(trouble).to_have_text("")
    shown.check()
    expect(trouble).to_contain_text("Incomplete")
    tab.page.unroute("**/maps/**")
    expect(trouble).to_have_text("", timeout=10_000)
    tab.settle()
    assert tab.color(INSIDE) != tab.color(OUTSIDE)


@pytest.mark.parametrize("outdated", [1, 99])
def test_layers_of_another_version_are_read_anew(
    tab: Tab, address: str, outdated: int
) -> None:
    """The server has other maps than it told the first, or the first 99 times."""
    told: list[float] = []

    def tell(route: Route) -> None:
        told.append(time.monotonic())
        answer = route.fetch()
        said = answer.json()
        for layer in said["layers"]:
            layer["version"] = f"{len(told)}-{layer['version']}"
        route.fulfill(response=answer, json=said)

    def give(route: Route) -> None:
        where, _, version = route.request.url.partition("?v=")
        number, _, version = version.partition("-")
        if int(number) <= outdated:
            route.fulfill(status=409, body="{}")
        else:
            route.fulfill(response=route.fetch(url=f"{where}?v={version}"))

    tab.page.route(f"**/api/slides/{key_of('with')}", tell)
    tab.page.route("**/maps/**", give)
    tab.open_slide(address, "with")
    tab.page.locator("[data-role=outlines]").uncheck()
    tab.page.wait_for_timeout(1000)
    # Once more at once, then at most every AGAIN_S: not in a loop.
    assert 2 <= len(told) <= 2 + (time.monotonic() - told[0]) / AGAIN_S
    if outdated == 1:
        tab.slide("opacity", 100)
        assert np.allclose(tab.color(INSIDE), (223, 227, 24), atol=9)
