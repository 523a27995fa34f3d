"""Value tiles and exact values: right pixels, few bytes read, none out of the run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from digipath_ray import viewer
from digipath_ray.artifacts.file import write_artifacts
from digipath_ray.artifacts.kinds import KINDS, ArtifactMap
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.schema import ARTIFACTS
from digipath_ray.storage.bucket import put
from digipath_ray.storage.files import place
from digipath_ray.tissue.mask import read_mask, write_mask
from digipath_ray.viewer.collection.collection import open_collection
from digipath_ray.viewer.collection.entries import key_of
from digipath_ray.viewer.collection.snapshot import Entry
from digipath_ray.viewer.tiles import valuetiles
from digipath_ray.viewer.tiles.layers import At, NoMap, read_mask_levels, to_gray
from digipath_ray.viewer.tiles.maps import Maps
from digipath_ray.viewer.tiles.valuetiles import open_value_tiles
from tests.finished_runs import HEATMAP_MPP, Made, write_run
from tests.viewing import decode, viewed_run

if TYPE_CHECKING:
    from tests.buckets import Bucket


def random_heatmap(width: int, height: int, *, seed: int = 0) -> Heatmap:
    rng = np.random.default_rng(seed)
    weight = np.ones((height, width), np.float32)
    weight[:, -40:] = 0
    data = rng.random((2, height, width), np.float32) * weight
    return Heatmap(
        channels=("probability", "epistemic"),
        data=data,
        weight=weight,
        mpp_x=8.0,
        mpp_y=8.0,
    )


def entry_of(run: RunDirectory, slide_id: str = "with") -> Entry:
    return open_collection([run.root]).latest.entries[key_of(slide_id)]


@pytest.fixture
def maps() -> Maps:
    return Maps(AnnotationSpec())


# Tiles of the file


def test_tiles_put_together_are_the_map(tmp_path: Path) -> None:
    heatmap = random_heatmap(700, 530)
    write_heatmap(tmp_path / "h.ome.tiff", heatmap, name="h")
    tiles = open_value_tiles(tmp_path / "h.ome.tiff")
    assert (tiles.width, tiles.height, len(tiles.levels)) == (700, 530, 3)
    assert tiles.channels == ("probability", "epistemic")
    for channel, want in (("epistemic", heatmap.data[1]), ("weight", heatmap.weight)):
        rows = [
            np.hstack([tiles.read(channel, 0, col, row) for col in range(3)])
            for row in range(3)
        ]
        np.testing.assert_array_equal(np.vstack(rows), want)


def test_a_coarser_level_is_the_files_own(tmp_path: Path) -> None:
    heatmap = random_heatmap(600, 512)
    write_heatmap(tmp_path / "h.ome.tiff", heatmap, name="h")
    tile = open_value_tiles(tmp_path / "h.ome.tiff").read("probability", 1, 0, 0)
    assert tile is not None
    want = heatmap.probability[:512, :512].reshape(256, 2, 256, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(tile, want, atol=1e-6)


@pytest.mark.parametrize("at", [(0, 3, 0), (0, 0, 3), (9, 0, 0), (2, 1, 0)])
def test_beyond_a_map_there_is_no_tile(
    tmp_path: Path, at: tuple[int, int, int]
) -> None:
    write_heatmap(tmp_path / "h.ome.tiff", random_heatmap(700, 530), name="h")
    assert open_value_tiles(tmp_path / "h.ome.tiff").read("probability", *at) is None


def test_a_map_of_one_pixel_has_one_tile(tmp_path: Path) -> None:
    heatmap = Heatmap(
        channels=("probability",),
        data=np.full((1, 1, 1), 0.5, np.float32),
        weight=np.ones((1, 1), np.float32),
        mpp_x=8.0,
        mpp_y=8.0,
    )
    write_heatmap(tmp_path / "h.ome.tiff", heatmap, name="h")
    tile = open_value_tiles(tmp_path / "h.ome.tiff").read("probability", 0, 0, 0)
    assert tile is not None
    assert tile.tolist() == [[0.5]]


def test_a_tile_reads_that_tile_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.ome.tiff"
    write_heatmap(path, random_heatmap(2000, 2000), name="h")
    read = []
    real = valuetiles.read_range

    def counted(path: Path, start: int, count: int) -> bytes:
        read.append(count)
        return real(path, start, count)

    monkeypatch.setattr(valuetiles, "read_range", counted)
    tiles = open_value_tiles(path)
    tiles.read("probability", 0, 1, 1)
    assert len(read) == 1
    assert read[0] <= 256 * 256 * 4 * 1.01 < path.stat().st_size / 50


def test_of_a_bucket_only_a_part_is_fetched(
    bucket_url: str, bucket_server: "Bucket", tmp_path: Path
) -> None:
    path = tmp_path / "h.ome.tiff"
    heatmap = random_heatmap(1500, 1200)
    write_heatmap(path, heatmap, name="h")
    put(f"{bucket_url}/h.ome.tiff", path.read_bytes())
    bucket_server.requests.clear()
    tiles = open_value_tiles(place(f"{bucket_url}/h.ome.tiff"))
    most = 64 * 1024 * bucket_server.asked("GET", "h.ome.tiff")
    assert most < path.stat().st_size / 4
    bucket_server.requests.clear()
    tile = tiles.read("probability", 0, 2, 1)
    np.testing.assert_array_equal(tile, heatmap.probability[256:512, 512:768])
    assert bucket_server.asked("GET", "h.ome.tiff") == 1


def test_a_damaged_map_says_so(tmp_path: Path) -> None:
    path = tmp_path / "h.ome.tiff"
    write_heatmap(path, random_heatmap(300, 300), name="h")
    tiles = open_value_tiles(path)
    data = bytearray(path.read_bytes())
    start = tiles.levels[0][0].offsets[0]
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        tiles.read("probability", 0, 0, 0)
    path.write_bytes(b"no TIFF at all")
    with pytest.raises(ValueError, match="not a TIFF"):
        open_value_tiles(path)


# Gray


def test_gray_0_is_where_nothing_was_estimated() -> None:
    values = np.array([[0, 0.5, 1, 0, 2, np.nan]], np.float32)
    weight = np.array([[1, 1, 1, 0, 1, 1]], np.float32)
    assert to_gray(values, weight, low=0, high=1).tolist() == [[1, 128, 255, 0, 255, 0]]


# A slide's layers


def test_layers_lie_on_the_slide(tmp_path: Path, maps: Maps) -> None:
    layers = {x.id: x for x in maps.layers(entry_of(viewed_run(tmp_path)))}
    assert list(layers) == ["a/probability", "a/epistemic", "a/tissue"]
    probability = layers["a/probability"]
    assert (probability.width, probability.height, probability.levels) == (250, 188, 1)
    assert (probability.l0_per_px_x, probability.high) == (16, 1)
    assert layers["a/epistemic"].high == 0.03125  # above the slide's 0.02
    assert (layers["a/tissue"].kind, layers["a/tissue"].l0_per_px_y) == ("mask", 8)


def test_a_tile_shows_the_lesion(tmp_path: Path, maps: Maps) -> None:
    entry = entry_of(viewed_run(tmp_path))
    gray = decode(maps.png(entry, "a", "probability", At(0, 0, 0)))
    assert gray.shape == (188, 250)
    # The lesion's center (1500, 1500) um, glass beside it, and the part not predicted.
    assert gray[93, 93] == 1 + round(254 * 0.95)
    assert gray[10, 10] == 1
    assert gray[10, 240] == 0


def test_values_are_exact_or_none(tmp_path: Path, maps: Maps) -> None:
    entry = entry_of(viewed_run(tmp_path))
    inside = maps.values(entry, 1500, 1500)
    assert inside == {"a/probability": float(np.float32(0.95)), "a/epistemic": 0.0}
    for beyond in ((3900.0, 10.0), (-1.0, 5.0), (5.0, 99_999.0)):
        values = maps.values(entry, *beyond)
        assert values == {"a/probability": None, "a/epistemic": None}


def test_two_runs_share_one_scale(tmp_path: Path, maps: Maps) -> None:
    first = viewed_run(tmp_path)
    second = write_run(
        tmp_path / "second",
        [Made(slide_id="with", outcome={"epistemic_max": 0.2})],
    )
    collection = open_collection([first.root], against=second.root)
    entry = collection.latest.entries[key_of("with")]
    high = {x.id: x.high for x in maps.layers(entry)}
    assert high["a/epistemic"] == high["b/epistemic"] == 0.25
    assert maps.values(entry, 1500, 1500)["b/probability"] == 0.0


def test_each_run_lies_by_its_own_mpp(tmp_path: Path, maps: Maps) -> None:
    """Two runs that were told different mpp of a slide: 16 um are 16 or 8 px of it."""
    first = viewed_run(tmp_path)
    second = write_run(
        tmp_path / "second",
        [
            Made(
                slide_id="with",
                lesions=((1500, 1500, 700, 0.5),),
                slide={"mpp_x": 2.0, "mpp_y": 2.0},
            )
        ],
    )
    collection = open_collection([first.root], against=second.root)
    entry = collection.latest.entries[key_of("with")]
    per_px = {x.id: (x.l0_per_px_x, x.l0_per_px_y) for x in maps.layers(entry)}
    assert per_px["a/probability"] == (HEATMAP_MPP, HEATMAP_MPP)
    assert per_px["b/probability"] == (HEATMAP_MPP / 2, HEATMAP_MPP / 2)
    assert per_px["b/tissue"][0] == per_px["a/tissue"][0] / 2
    told = maps.values(entry, 750, 750)
    assert told["b/probability"] == pytest.approx(0.5)  # 1500 um
    assert told["a/probability"] == pytest.approx(
        maps.values(entry_of(first), 750, 750)["a/probability"]
    )


def test_a_mask_made_anew_before_the_slide_is_done(tmp_path: Path, maps: Maps) -> None:
    run = viewed_run(tmp_path)
    run.done("with").unlink()
    run.outcomes.unlink()
    entry = entry_of(run)
    (before,) = [x for x in maps.layers(entry) if x.name == "tissue"]
    mask = read_mask(run.mask("with"))
    write_mask(run.mask("with"), replace(mask, array=~mask.array))
    (after,) = [x for x in maps.layers(entry) if x.name == "tissue"]
    assert before.version != after.version


@pytest.mark.parametrize(
    ("run", "name"),
    [("a", "aleatoric"), ("b", "probability"), ("a", "weight"), ("a", "../x")],
)
def test_a_map_that_there_is_not(
    tmp_path: Path, maps: Maps, run: str, name: str
) -> None:
    with pytest.raises(NoMap):
        maps.png(entry_of(viewed_run(tmp_path)), run, name, At(0, 0, 0))


def test_a_mask_is_halved_by_the_greater_part(tmp_path: Path) -> None:
    pixels = np.zeros((300, 520), np.uint8)
    pixels[:, :261] = 255
    path = tmp_path / "m.png"
    Image.fromarray(pixels).save(path, dpi=(25_400 / 8, 25_400 / 8))
    mask = read_mask_levels(path)
    assert [level.shape for level in mask.levels] == [(300, 520), (150, 260), (75, 130)]
    assert mask.levels[1][0].sum() == 131  # 2 of 4 px are half of them


def test_the_tissue_is_a_layer(tmp_path: Path, maps: Maps) -> None:
    gray = decode(maps.png(entry_of(viewed_run(tmp_path)), "a", "tissue", At(0, 0, 0)))
    assert gray[49, 100] == 0
    assert gray[51, 100] == 255


def test_every_kind_of_artifact_is_a_layer(tmp_path: Path, maps: Maps) -> None:
    run = viewed_run(tmp_path)
    mask = read_mask(run.mask("with"))
    indexes = np.zeros(mask.array.shape, np.uint8)
    indexes[10:20, 30:40], indexes[60:, 5:9] = 2, 4
    found = ArtifactMap(indexes=indexes, mpp_x=mask.mpp_x, mpp_y=mask.mpp_y)
    run.artifacts("with").parent.mkdir()
    write_artifacts(run.artifacts("with"), found)
    assert "a/artifact-fold" not in {x.id for x in maps.layers(entry_of(run))}
    looked_for = {f"artifact_{kind}": 0.1 for kind in ARTIFACTS}
    entry = entry_of(run)
    entry = replace(entry, outcomes={"a": {**entry.outcomes["a"], **looked_for}})
    layers = {x.id: x for x in maps.layers(entry)}
    assert list(layers)[-2:] == ["a/artifact-fold", "a/artifact-pen"]
    assert layers["a/artifact-fold"].label == "artifact: fold"
    for kind, index in (("fold", 2), ("pen", 4)):
        gray = decode(maps.png(entry, "a", f"artifact-{kind}", At(0, 0, 0)))
        height, width = gray.shape
        assert np.array_equal(gray > 0, indexes[:height, :width] == index)
    for name in ("artifact-blur", "artifact-x"):
        with pytest.raises(NoMap):
            maps.png(entry, "a", name, At(0, 0, 0))
    run.artifacts("with").write_bytes(b"no such thing")
    (trouble,) = Maps(AnnotationSpec()).examine(entry)[1]
    assert trouble.startswith("cannot show the artifacts")


def test_the_page_has_the_colors_of_the_kinds() -> None:
    source = Path(viewer.__file__).parent / "web" / "src" / "slide" / "valueLayer.ts"
    text = source.read_text("utf-8")
    for kind in KINDS:
        assert f'"artifact-{kind.name}": {list(kind.color)},' in text


# Links and names that lead out of the run


def test_a_link_out_of_the_run_is_refused(tmp_path: Path, maps: Maps) -> None:
    run = viewed_run(tmp_path)
    outside = tmp_path / "outside.ome.tiff"
    run.heatmap("with").rename(outside)
    run.heatmap("with").symlink_to(outside)
    run.mask("with").unlink()
    run.mask("with").symlink_to("/etc/passwd")
    entry = entry_of(run)
    assert maps.layers(entry) == []
    with pytest.raises(NoMap):
        maps.png(entry, "a", "probability", At(0, 0, 0))
    with pytest.raises(NoMap):
        maps.png(entry, "a", "tissue", At(0, 0, 0))


def test_a_link_within_the_run_is_followed(tmp_path: Path, maps: Maps) -> None:
    run = viewed_run(tmp_path)
    stored = run.root / "heatmaps" / "stored.tiff"
    run.heatmap("with").rename(stored)
    run.heatmap("with").symlink_to(stored)
    assert "a/probability" in {x.id for x in maps.layers(entry_of(run))}


# Ground truth


def test_truth_drawn_as_polygons(tmp_path: Path, maps: Maps) -> None:
    square = [[800, 800], [1600, 800], [1600, 1600], [800, 1600], [800, 800]]
    geometry = {"type": "Polygon", "coordinates": [square]}
    truth = tmp_path / "truth.geojson"
    tumor = {"classification": {"name": "Tumor"}}
    truth.write_text(
        json.dumps({"type": "Feature", "geometry": geometry, "properties": tumor})
    )
    run = write_run(
        tmp_path / "run",
        [Made(slide_id="with", slide={"annotation": str(truth)})],
    )
    entry = entry_of(run)
    layer = maps.layers(entry)[-1]
    assert (layer.id, layer.kind, layer.width) == ("a/truth", "mask", 250)
    gray = decode(maps.png(entry, "a", "truth", At(0, 0, 0)))
    want = np.zeros((188, 250), np.uint8)
    want[50:100, 50:100] = 255
    np.testing.assert_array_equal(gray, want)
    (found,) = maps.truth_features(entry)
    assert found["geometry"]["type"] == "Polygon"
    corners = {tuple(point) for point in found["geometry"]["coordinates"][0]}
    assert corners == {(800, 800), (1600, 800), (1600, 1600), (800, 1600)}


def test_tiles_of_another_scale_have_another_version(
    tmp_path: Path, maps: Maps
) -> None:
    """A browser keeps a version's tiles for a year."""
    truth = tmp_path / "truth.png"
    Image.fromarray(np.zeros((300, 400), np.uint8)).save(truth)
    made = Made(slide_id="with", slide={"annotation": str(truth)})
    done = entry_of(write_run(tmp_path / "run", [made]))
    waiting = replace(done, runs={"a": replace(done.runs["a"], stamp=None)})
    before, after = (
        {layer.id: layer for layer in maps.layers(entry)}["a/truth"]
        for entry in (waiting, done)
    )
    assert before.l0_per_px_x != after.l0_per_px_x
    assert before.version != after.version
    assert maps.version(done, "a", "truth") == after.version


def test_another_range_has_another_version(tmp_path: Path, maps: Maps) -> None:
    alone = entry_of(viewed_run(tmp_path))
    beside = {**alone.outcomes, "b": {"epistemic_max": 0.25}}
    narrow, wide = (
        {layer.name: layer for layer in maps.layers(entry)}["epistemic"]
        for entry in (alone, replace(alone, outcomes=beside))
    )
    assert narrow.high < wide.high
    assert narrow.version != wide.version


def test_a_layer_beside_another_run_has_another_version(
    tmp_path: Path, maps: Maps
) -> None:
    first = viewed_run(tmp_path)
    second = write_run(
        tmp_path / "second", [Made(slide_id="with", outcome={"epistemic_max": 0.2})]
    )
    alone, beside = (
        {
            layer.id: layer
            for layer in maps.layers(
                open_collection([first.root], against=other).latest.entries[
                    key_of("with")
                ]
            )
        }
        for other in (None, second.root)
    )
    assert alone["a/epistemic"].version != beside["a/epistemic"].version
    assert alone["a/probability"].version == beside["a/probability"].version
    assert beside["b/probability"].version != beside["a/probability"].version


def test_truth_in_a_mask_image(tmp_path: Path, maps: Maps) -> None:
    pixels = np.zeros((300, 400), np.uint8)
    pixels[80:160, 80:160] = 255
    Image.fromarray(pixels).save(tmp_path / "truth.png")
    made = Made(slide_id="with", slide={"annotation": str(tmp_path / "truth.png")})
    entry = entry_of(write_run(tmp_path / "run", [made]))
    gray = decode(maps.png(entry, "a", "truth", At(0, 0, 0)))
    assert gray[50:100, 50:100].min() == 255
    assert (gray > 0).sum() == 2500
    (found,) = maps.truth_features(entry)
    corners = {tuple(point) for point in found["geometry"]["coordinates"][0]}
    assert corners == {(800, 800), (1600, 800), (1600, 1600), (800, 1600)}


def test_no_truth_no_layer(tmp_path: Path, maps: Maps) -> None:
    entry = entry_of(viewed_run(tmp_path))
    with pytest.raises(NoMap):
        maps.truth_features(entry)
    with pytest.raises(NoMap):
        maps.png(entry, "a", "truth", At(0, 0, 0))
