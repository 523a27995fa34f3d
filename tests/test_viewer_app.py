"""The viewer's HTTP as the page and a user of its downloads see it."""

import csv
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from PIL import Image

from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.bucket import put
from digipath_ray.viewer.app import PAGE
from digipath_ray.viewer.collection.collection import open_collection
from digipath_ray.viewer.server import slides
from digipath_ray.viewer.server.exports import attachment, write_csv
from digipath_ray.viewer.tiles.slidetiles import Tiles
from tests.finished_runs import Made, failure_of, write_run
from tests.slides import noise, write_levels
from tests.viewing import client, decode, url_of, viewed_run, write_gradient

if TYPE_CHECKING:
    from tests.buckets import Bucket


@pytest.fixture(scope="module")
def gradient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gradient(tmp_path_factory.mktemp("slides") / "gradient.tif")


# The cohort


def test_the_cohort_names_what_is_opened(tmp_path: Path) -> None:
    with client(viewed_run(tmp_path)) as browser:
        told = browser.get("/api/cohort").json()
    assert told["title"].endswith("/run")
    assert told["runs"] == ["a"]
    assert "research use only" in told["research_use"].lower()
    assert told["allow_run"] is False
    assert [slide["slide_id"] for slide in told["slides"]] == ["with", "without"]
    assert [patient["patient_id"] for patient in told["patients"]] == ["p1"]
    assert all(len(slide["key"]) == 16 for slide in told["slides"])


@pytest.mark.parametrize(
    "slide_id",
    [
        "<img src=x onerror=alert(1)>",
        "Gewebe Ä\u202eß 组织 🧫",
        "a'b;c &amp; d",
        "=1+1",
    ],
)
def test_odd_names_pass_as_they_are(tmp_path: Path, slide_id: str) -> None:
    # Such names come from a manifest or a file; '<' cannot be a run's own file name.
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,path,patient_id\n", encoding="utf-8")
    safe = slide_id.translate({ord(c): None for c in '<>"/\\:*?|'})
    safe = "".join(c for c in safe if c.isprintable())
    write_levels(tmp_path / "s.tif", [noise(64, 64)], mpp=1)
    with manifest.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow([safe, "s.tif", slide_id])
    with client(manifest) as browser:
        answer = browser.get("/api/cohort")
        assert answer.headers["content-type"] == "application/json"
        (slide,) = answer.json()["slides"]
        assert slide["slide_id"] == safe
        assert slide["patient_id"] == slide_id
        assert browser.get(url_of(safe)).json()["slide_id"] == safe


# A slide


def test_a_slide_says_what_can_be_drawn(tmp_path: Path, gradient: Path) -> None:
    with client(viewed_run(tmp_path, gradient)) as browser:
        told = browser.get(url_of("with")).json()
    image = told["image"]
    assert (image["width"], image["height"], image["max_level"]) == (4000, 3000, 12)
    assert (image["mpp_x"], image["tile_size"], image["overlap"]) == (1.0, 512, 0)
    assert told["image_error"] is None
    assert [layer["id"] for layer in told["layers"]] == [
        "a/probability", "a/epistemic", "a/tissue",
    ]  # fmt: skip
    (lesion,) = told["lesions"]
    assert lesion["number"] == 1
    assert lesion["center"] == pytest.approx([1500, 1500], abs=16)
    left, top, right, bottom = lesion["box"]
    assert [left, top] == pytest.approx([800, 800], abs=16)
    assert [right, bottom] == pytest.approx([2200, 2200], abs=16)
    assert lesion["type"] == "micro"
    assert ["format", "generic-tiff"] in told["facts"]


def test_a_tile_is_the_slides_pixels(tmp_path: Path, gradient: Path) -> None:
    with client(viewed_run(tmp_path, gradient)) as browser:
        answer = browser.get(url_of("with", "/tiles/12/3_4.jpg"))
    assert answer.headers["content-type"] == "image/jpeg"
    tile = decode(answer.content).astype(int)
    assert tile.shape == (512, 512, 3)
    assert abs(tile[256, 256] - [114, 196, 90]).max() <= 3


def test_a_map_tile_is_gray(tmp_path: Path, gradient: Path) -> None:
    with client(viewed_run(tmp_path, gradient)) as browser:
        answer = browser.get(url_of("with", "/maps/a/probability/0/0_0.png"))
    assert answer.headers["content-type"] == "image/png"
    gray = decode(answer.content)
    assert (gray.ndim, gray[93, 93], gray[10, 240]) == (2, 242, 0)


def test_values_say_where_in_um(tmp_path: Path, gradient: Path) -> None:
    with client(viewed_run(tmp_path, gradient)) as browser:
        told = browser.get(url_of("with", "/values?x=1500&y=1501.5")).json()
        assert told["x_um"] == 1500
        assert told["y_um"] == 1501.5
        assert told["values"]["a/probability"] == pytest.approx(0.95)
        for query in (
            "",
            "?x=1",
            "?x=nan&y=1",
            "?x=inf&y=1",
            "?x=a&y=1",
            "?x=1e300&y=1",
        ):
            assert browser.get(url_of("with", f"/values{query}")).status_code == 400


def test_a_tile_is_not_sent_twice(tmp_path: Path, gradient: Path) -> None:
    with client(viewed_run(tmp_path, gradient)) as browser:
        told = browser.get(url_of("with")).json()
        version = {
            "tiles/12/0_0.jpg": told["image"]["version"],
            "maps/a/tissue/0/0_0.png": told["layers"][-1]["version"],
        }
        for rest, named in version.items():
            url = url_of("with", f"/{rest}")
            first = browser.get(url)
            assert first.headers["cache-control"] == "private, no-cache"
            again = browser.get(url, headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            forever = browser.get(f"{url}?v={named}").headers["cache-control"]
            assert forever == "private, max-age=31536000, immutable"
            kept = browser.get(f"{url}?v=other").headers["cache-control"]
            assert kept in ("private, no-cache", "no-store")


def test_a_map_of_another_version_is_not_handed_out(tmp_path: Path) -> None:
    """Its grays would be read by the range that the page was told of the old one."""
    with client(viewed_run(tmp_path)) as browser:
        layer = browser.get(url_of("with")).json()["layers"][0]
        url = url_of("with", f"/maps/{layer['id']}/0/0_0.png")
        assert browser.get(f"{url}?v={layer['version']}").status_code == 200
        assert browser.get(f"{url}?v=other").status_code == 409
        assert browser.get(url).status_code == 200  # who asks for no version


def test_what_stands_is_said_of_each_run(tmp_path: Path) -> None:
    first = viewed_run(tmp_path)
    first.done("with").unlink()
    first.outcomes.unlink()
    made = Made(slide_id="with", lesions=((1500, 1500, 700, 0.95),))
    second = write_run(tmp_path / "second", [made])
    second.lesions("with").write_text('{"type": "FeatureCollection", "features": []}')
    with client(open_collection([first.root], against=second.root)) as browser:
        told = browser.get(url_of("with")).json()
        assert (told["outlines"], told["done"]) == (["b"], ["b"])
        assert browser.get(url_of("with", "/outlines/b.geojson")).status_code == 200
        assert browser.get(url_of("with", "/outlines/a.geojson")).status_code == 404


def test_what_the_second_run_finishes_is_news_of_the_slide(tmp_path: Path) -> None:
    first = viewed_run(tmp_path)
    said = []
    for made in ([], [Made(slide_id="with")]):
        second = write_run(tmp_path / f"second{len(made)}", made)
        opened = open_collection([first.root], against=second.root)
        said.append({e["slide_id"]: e["second"] for e in opened.latest.slides.values()})
    before, after = said
    assert before == {"with": None, "without": None}
    assert after["with"] is not None
    assert after["without"] is None


def test_a_thumbnail_drawn_anew_is_sent_anew(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    run.done("with").unlink()
    path = run.thumbnail("with")
    Image.new("RGB", (60, 40), "red").save(path)
    with client(run) as browser:
        url = url_of("with", "/thumbnail.jpg")
        first = browser.get(url)
        Image.new("RGB", (30, 90), "blue").save(path)
        again = browser.get(url, headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 200
        assert decode(again.content).shape[:2] == (90, 30)


def test_a_slide_whose_file_is_gone_keeps_its_maps(tmp_path: Path) -> None:
    with client(viewed_run(tmp_path)) as browser:
        told = browser.get(url_of("with")).json()
        assert told["image"]["width"] == 4000
        assert "is missing" in told["image_error"]["error"]
        assert len(told["layers"]) == 3
        tile = browser.get(url_of("with", "/tiles/12/0_0.jpg"))
        assert tile.status_code == 500
        assert decode(tile.content).shape == (512, 512, 3)
        assert (
            browser.get(url_of("with", "/maps/a/tissue/0/0_0.png")).status_code == 200
        )


def test_another_file_in_its_place_is_noticed(tmp_path: Path) -> None:
    slide = write_gradient(tmp_path / "s.tif", width=300, height=200)
    with client(viewed_run(tmp_path, slide)) as browser:
        told = browser.get(url_of("with")).json()
    assert "a different size" in told["image_error"]["error"]


def test_a_corrupt_slide_gives_an_error_tile_and_the_server_lives_on(
    tmp_path: Path, shared_data: Path
) -> None:
    lines = ["slide_id,path"]
    for name in ("unreadable", "broken", "CMU-1-Small-Region"):
        lines.append(f"{name},{shared_data / 'wsi' / name}.svs")
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("\n".join(lines))
    with client(manifest) as browser:
        for name in ("unreadable", "broken"):
            for rest in ("/tiles/4/0_0.jpg", "/thumbnail.jpg"):
                answer = browser.get(url_of(name, rest))
                assert answer.status_code == 500
                assert answer.headers["content-type"] == "image/jpeg"
                assert decode(answer.content).std() > 1  # it says something
        broken = browser.get(url_of("broken")).json()
        assert (broken["image"], broken["layers"]) == (None, [])
        assert broken["image_error"]["hint"]
        right = browser.get(url_of("CMU-1-Small-Region", "/tiles/11/0_0.jpg"))
        assert right.status_code == 200


def test_a_thumbnail_is_the_runs_own_but_small(tmp_path: Path, gradient: Path) -> None:
    with client(viewed_run(tmp_path, gradient)) as browser:
        answer = browser.get(url_of("with", "/thumbnail.jpg"))
    small = decode(answer.content)
    assert small.shape == (240, 320, 3)
    assert abs(small[120, 160].astype(int) - [205, 150, 190]).max() < 6


def test_a_slide_of_a_folder_has_truth_before_any_run(
    tmp_path: Path, gradient: Path
) -> None:
    square = [[100, 100], [900, 100], [900, 900], [100, 900], [100, 100]]
    geometry = {"type": "Polygon", "coordinates": [square]}
    (tmp_path / "t.geojson").write_text(
        json.dumps({"type": "Feature", "geometry": geometry, "properties": {}})
    )
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,path,annotation\ns,{gradient},t.geojson\n")
    with client(manifest) as browser:
        told = browser.get(url_of("s")).json()
        assert [layer["id"] for layer in told["layers"]] == ["slide/truth"]
        assert told["truth_outlines"] is True
        gray = decode(browser.get(url_of("s", "/maps/slide/truth/0/0_0.png")).content)
        assert (gray[25:225, 25:225] == 255).all()
        assert (gray > 0).sum() == 200 * 200
        outlines = browser.get(url_of("s", "/truth.geojson")).json()
        assert len(outlines["features"]) == 1


def test_slides_that_failed_are_shown_if_they_can_be(
    tmp_path: Path, gradient: Path
) -> None:
    failure = failure_of("bad", path=str(gradient))
    with client(viewed_run(tmp_path, failures=[failure])) as browser:
        told = browser.get(url_of("bad")).json()
        assert told["status"] == "failed"
        assert told["image"]["width"] == 4000
        assert browser.get(url_of("bad", "/tiles/12/0_0.jpg")).status_code == 200


def test_the_page_is_served_as_it_was_built(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    for name, text in (("index.html", "<p>page"), ("viewer.js", "1"), ("a.css", "p{}")):
        (tmp_path / "page" / name).write_text(text)
    with client(viewed_run(tmp_path), page=tmp_path / "page") as browser:
        assert browser.get("/").text == "<p>page"
        script = browser.get("/assets/viewer.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert (
            browser.get("/assets/a.css").headers["content-type"].startswith("text/css")
        )
        assert browser.get("/assets/none.js").status_code == 404
    with client(viewed_run(tmp_path / "b"), page=tmp_path / "none") as browser:
        answer = browser.get("/")
        assert answer.status_code == 503
        assert "npm" in answer.text
    assert PAGE.parent.name == "viewer"


# Downloads


def test_outlines_open_in_qupath(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    collection = {"type": "FeatureCollection", "features": []}
    run.lesions("with").write_text(json.dumps(collection))
    with client(run) as browser:
        assert browser.get(url_of("with", "/outlines/a.geojson")).json() == collection
        answer = browser.get(url_of("with", "/export/geojson"))
        assert answer.json() == collection
        assert answer.headers["content-type"] == "application/geo+json"
        said = answer.headers["content-disposition"]
        assert said == (
            "attachment; filename=\"with.geojson\"; filename*=UTF-8''with.geojson"
        )
        assert browser.get(url_of("without", "/export/geojson")).status_code == 404


def test_a_heatmap_is_handed_over_as_it_is(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    with client(run) as browser:
        answer = browser.get(url_of("with", "/export/heatmap"))
    (tmp_path / "got.ome.tiff").write_bytes(answer.content)
    got = read_heatmap(tmp_path / "got.ome.tiff")
    np.testing.assert_array_equal(got.data, read_heatmap(run.heatmap("with")).data)


def test_a_heatmap_out_of_a_bucket(tmp_path: Path, bucket_url: str) -> None:
    run = viewed_run(tmp_path)
    for path in run.root.rglob("*"):
        if path.is_file():
            name = path.relative_to(run.root)
            put(f"{bucket_url}/run/{name}", path.read_bytes())
    with client(open_collection([f"{bucket_url}/run"])) as browser:
        answer = browser.get(url_of("with", "/export/heatmap"))
        assert answer.content == run.heatmap("with").read_bytes()
        gray = decode(
            browser.get(url_of("with", "/maps/a/probability/0/0_0.png")).content
        )
        assert gray[93, 93] == 242
        assert browser.get(url_of("with", "/thumbnail.jpg")).status_code == 200


def test_a_link_out_of_the_run_is_not_handed_over(tmp_path: Path) -> None:
    run = viewed_run(tmp_path)
    for path in (run.heatmap("with"), run.lesions("with"), run.thumbnail("with")):
        path.unlink(missing_ok=True)
        path.symlink_to("/etc/passwd")
    with client(run) as browser:
        for rest in ("/export/heatmap", "/export/geojson", "/outlines/a.geojson"):
            assert browser.get(url_of("with", rest)).status_code == 404
        thumbnail = browser.get(url_of("with", "/thumbnail.jpg"))
        assert thumbnail.status_code == 500  # the slide itself is absent, too
        assert b"root:" not in thumbnail.content


def test_lesions_as_csv(tmp_path: Path) -> None:
    with client(viewed_run(tmp_path)) as browser:
        answer = browser.get(url_of("with", "/export/csv"))
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["number"] == "1"
    assert float(row["area_mm2"]) == pytest.approx(1.54, abs=0.01)
    assert row["counted"] == "true"


def test_the_cohort_as_csv(tmp_path: Path) -> None:
    run = viewed_run(tmp_path, failures=[failure_of("bad", "p1")])
    with client(run) as browser:
        answer = browser.get("/api/export/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(r["slide_id"], r["status"]) for r in rows] == [
        ("bad", "failed"), ("with", "done"), ("without", "done"),
    ]  # fmt: skip
    assert rows[0]["error"] == "the file is cut short"
    assert float(rows[1]["tumor_mm2"]) == pytest.approx(1.54, abs=0.01)


def test_a_spreadsheet_runs_nothing() -> None:
    table = write_csv(["a"], [["=1+1"], ["@x"], [-1.5], [["+a", "b"]], ["a=1"]])
    assert table.decode().splitlines() == ["a", "'=1+1", "'@x", "-1.5", "'+a;b", "a=1"]


@pytest.mark.parametrize(
    ("name", "plain", "exact"),
    [
        ('a"; filename=b.exe', "a___filename_b.exe", "a%22%3B%20filename%3Db.exe"),
        ("Schnitt Ä.csv", "Schnitt__.csv", "Schnitt%20%C3%84.csv"),
        ("a\r\nSet-Cookie: x", "a__Set-Cookie__x", "a%0D%0ASet-Cookie%3A%20x"),
    ],
)
def test_a_file_name_says_nothing_else(name: str, plain: str, exact: str) -> None:
    said = attachment(name)["content-disposition"]
    assert said == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"


def test_the_second_runs_files_can_be_had_too(tmp_path: Path) -> None:
    first = viewed_run(tmp_path)
    made = Made(slide_id="with", lesions=((2000, 2000, 300, 0.9),))
    second = write_run(tmp_path / "second", [made])
    outlines = {"type": "FeatureCollection", "features": [], "of": "second"}
    second.lesions("with").write_text(json.dumps(outlines))
    with client(open_collection([first.root], against=second.root)) as browser:
        answer = browser.get(url_of("with", "/export/geojson?run=b"))
        assert answer.json() == outlines
        assert "with_b.geojson" in answer.headers["content-disposition"]
        heatmap = browser.get(url_of("with", "/export/heatmap?run=b")).content
        assert heatmap == second.heatmap("with").read_bytes()
        table = browser.get(url_of("with", "/export/csv?run=b")).text
        (lesion,) = csv.DictReader(io.StringIO(table))
        assert float(lesion["area_mm2"]) == pytest.approx(0.28, abs=0.01)
        (row,) = csv.DictReader(io.StringIO(browser.get("/api/export/csv?run=b").text))
        assert row["slide_id"] == "with"
        for rest in ("/export/csv?run=c", "/export/geojson?run=..%2f"):
            assert browser.get(url_of("with", rest)).status_code == 404


@pytest.mark.parametrize(
    ("path_of", "name"),
    [
        (RunDirectory.heatmap, "heatmap"),
        (RunDirectory.mask, "tissue mask"),
        (RunDirectory.lesions, "outlines"),
    ],
)
def test_a_damaged_file_of_a_slide_is_named(
    tmp_path: Path, path_of: Callable[[RunDirectory, str], Path], name: str
) -> None:
    run = viewed_run(tmp_path)
    path_of(run, "with").write_bytes(b"no such thing")
    with client(run) as browser:
        answer = browser.get(url_of("with"))
    assert answer.status_code == 200
    (note,) = [n for n in answer.json()["notes"] if "cannot show" in n]
    assert note.startswith(f"cannot show the {name}")
    assert path_of(run, "with").name in note


def test_a_slide_in_a_bucket_has_no_thumbnail_before_its_run(
    tmp_path: Path, bucket_url: str, bucket_server: "Bucket"
) -> None:
    put(f"{bucket_url}/s.tif", b"gigabytes")
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,path\ns,{bucket_url}/s.tif\n")
    with client(manifest) as browser:
        assert browser.get("/api/cohort").json()["slides"][0]["thumbnail"] is False
        bucket_server.requests.clear()
        assert browser.get(url_of("s", "/thumbnail.jpg")).status_code == 404
    assert bucket_server.asked("GET", "s.tif") == 0


# Many at once


@pytest.mark.slow
def test_200_requests_at_once_without_growth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round decodes 200 tiles, as next to none of them fits into what is kept.

    In the first two rounds threads begin, and OpenSlide fills its cache of 24 MB; 200
    tiles of 512 px are 157 MB while they are decoded. What a later round leaves behind
    would be a leak: a third of that is what the allocator may differ by.
    """
    monkeypatch.setattr(slides, "Tiles", partial(Tiles, most_bytes=1 << 20))
    slide = write_levels(tmp_path / "s.tif", [noise(512 * 10, 512 * 20)], mpp=1)
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide_id,path\ns,{slide}\n")
    places = [f"/tiles/14/{col}_{row}.jpg" for row in range(20) for col in range(10)]
    after = []
    with client(manifest) as browser, ThreadPoolExecutor(200) as threads:

        def ask(rest: str) -> int:
            return browser.get(url_of("s", rest)).status_code

        for _ in range(5):
            assert list(threads.map(ask, places)) == [200] * 200
            after.append(psutil.Process().memory_info().rss)
    assert max(after[2:]) - after[1] < 50 << 20
