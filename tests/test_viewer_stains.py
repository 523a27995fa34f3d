"""A slide in the viewer as scanned, and in the stains that its network saw."""

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.run.directory import RunDirectory
from digipath_ray.stain.estimate import StainEstimate
from digipath_ray.stain.normalize import MACENKO_TARGET, map_stains, normalize_pixels
from tests.browser import Tab, pixels_of
from tests.runs import make_run, small_config, write_slide
from tests.stained import write_stained
from tests.viewing import client, decode, url_of, viewing

TILE = "/tiles/8/0_0.jpg"
"""All of a slide of 200 x 160 px."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A slide that was normalized, and one whose stains could not be told."""
    folder = tmp_path_factory.mktemp("cohort")
    write_stained(folder / "he.tif")
    write_slide(folder / "plain.tif")
    config = small_config({"slide": {"stain": "macenko"}})
    return make_run(folder / "run", read_cohort([folder]), config)


def test_tiles_are_as_the_network_saw_them(run: RunDirectory) -> None:
    found = run.read_record("he").slide.normalized_from
    assert isinstance(found, StainEstimate)
    with client(run) as browser:
        image = browser.get(url_of("he")).json()["image"]
        scanned = browser.get(url_of("he", TILE))
        version = f"?v={image['version']}&seen={image['seen_version']}"
        seen = browser.get(url_of("he", TILE + version))
        plain = browser.get(url_of("plain")).json()
        refused = browser.get(url_of("plain", f"{TILE}?seen=1"))
    assert image["seen_version"]
    assert scanned.headers["etag"] != seen.headers["etag"]
    want = normalize_pixels(decode(scanned.content), map_stains(found, MACENKO_TARGET))
    before, after = (
        np.abs(decode(r.content).astype(int) - want).mean() for r in (scanned, seen)
    )
    assert after < 4  # both went through JPEG
    assert before > 3 * after
    assert plain["image"]["seen_version"] == ""
    assert refused.status_code == 404
    assert any("neither of its two colors" in str(why) for why in plain["reasons"])


def shown(tab: Tab) -> NDArray[np.int64]:
    """What is seen of the slide when it stands still."""
    tab.settle()
    return pixels_of(tab.page.locator(".pane canvas").first.screenshot())


@pytest.mark.browser
def test_a_switch_of_the_page_shows_them(run: RunDirectory, tab: Tab) -> None:
    with viewing(run.root) as (address, _):
        tab.open_slide(address, "he")
        switch = tab.page.get_by_label("Stains as the network saw them")
        expect(switch).not_to_be_checked()
        tab.page.get_by_label("tumor probability", exact=True).uncheck()
        scanned = shown(tab)
        switch.check()
        tab.page.wait_for_timeout(300)
        seen = shown(tab)
        assert any("seen=" in url for url in tab.requests)
        switch.uncheck()
        tab.page.wait_for_timeout(300)
        again = shown(tab)
        assert np.abs(seen - scanned).mean() > 5
        assert np.abs(again - scanned).mean() < 0.5
        assert tab.complaints == []
        tab.open_slide(address, "plain")
        expect(switch).to_have_count(0)
