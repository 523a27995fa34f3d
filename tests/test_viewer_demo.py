"""The demo's finished run on the viewer's page, which shows what its files hold."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect
from scipy.ndimage import maximum_filter, minimum_filter

from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.directory import RunDirectory
from tests.browser import Tab, pixels_of
from tests.viewing import viewing

pytestmark = pytest.mark.browser


@pytest.mark.ray
@pytest.mark.slow
def test_pixels_change_where_the_heatmap_says_so(
    tab: Tab, tmp_path: Path, demo: tuple[Path, int, str]
) -> None:
    (stored,) = demo[0].rglob("heatmaps/patient_1_node_1.ome.tiff")
    with viewing(stored.parent.parent) as (address, _):
        look_at(tab, address, "patient_1_node_1", read_heatmap(stored))
        go_to_lesion(tab, read_heatmap(stored))
        take_away(tab, RunDirectory(stored.parent.parent), "patient_1_node_1", tmp_path)


def look_at(tab: Tab, address: str, slide_id: str, heatmap: Heatmap) -> None:
    """Colored is what reaches the threshold, wherever it is put, and nothing else."""
    tab.size = heatmap.width * heatmap.mpp_x, heatmap.height * heatmap.mpp_y
    tab.open_slide(address, slide_id)
    tab.page.locator("[data-role=outlines]").uncheck()
    tab.slide("opacity", 0)
    bare = pixels_of(tab.page.screenshot())
    tab.slide("opacity", 100)
    # On the screen a pixel is a mean of several: only where these agree is it sure.
    lowest = minimum_filter(heatmap.probability, 9)
    highest = maximum_filter(heatmap.probability, 9)
    for threshold in (0.3, 0.8):
        tab.slide("threshold", threshold)
        shown = pixels_of(tab.page.screenshot())
        for sure, is_colored in (
            (lowest > threshold + 0.05, True),
            (highest < threshold - 0.05, False),
        ):
            x, y = tab.place(*centers(sure & (heatmap.weight > 0), heatmap))
            off = np.abs(shown - bare)[y.astype(int), x.astype(int)].max(axis=1)
            assert len(off) > 100
            assert np.mean((off > 12) == is_colored) > 0.99


def go_to_lesion(tab: Tab, heatmap: Heatmap) -> None:
    """What is read under the pointer there is what the heatmap holds."""
    tab.page.locator("[data-lesion='1']").click()
    tab.settle()
    tab.page.mouse.move(*tab.place(tab.size[0] / 2, tab.size[1] / 2))
    place = tab.page.locator(".readout .place")
    expect(place).to_have_text(re.compile(r"x [\d,]+  y [\d,]+"))
    x, y = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+", place.inner_text()))
    row, col = int(y // heatmap.mpp_y), int(x // heatmap.mpp_x)
    around = heatmap.probability[row - 1 : row + 2, col - 1 : col + 2]  # um are rounded
    value = tab.page.locator("[data-value='a/probability']")
    expect(value).to_have_text(re.compile(r"\d"))
    said = float(value.inner_text())
    assert around.min() - 0.01 <= said <= around.max() + 0.01
    assert said > 0.5


def take_away(tab: Tab, run: RunDirectory, slide_id: str, folder: Path) -> None:
    """The files that leave the page are those of the run."""

    def save(name: str) -> bytes:
        link = tab.page.get_by_role("link", name=name, exact=True)
        return tab.save(link.click, folder).read_bytes()

    assert save("GeoJSON") == run.lesions(slide_id).read_bytes()
    assert save("OME-TIFF") == run.heatmap(slide_id).read_bytes()


def centers(chosen: NDArray[np.bool_], heatmap: Heatmap) -> tuple[Any, Any]:
    """Every 7th of the chosen pixels off the corners that the page covers: um."""
    rows, cols = np.nonzero(chosen)
    middle = (cols > 0.1 * heatmap.width) & (cols < 0.75 * heatmap.width)
    rows, cols = rows[middle][::7], cols[middle][::7]
    return (cols + 0.5) * heatmap.mpp_x, (rows + 0.5) * heatmap.mpp_y
