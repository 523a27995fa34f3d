"""Artifacts put into drawn tissue are found where they are, and nothing else is."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage

from digipath_ray.artifacts import kinds
from digipath_ray.artifacts.file import LEGEND, read_artifacts, write_artifacts
from digipath_ray.artifacts.find import find_artifacts
from digipath_ray.artifacts.focus import CELL_PX, SCALES, measure_cells
from digipath_ray.artifacts.kinds import KINDS, ArtifactMap
from digipath_ray.artifacts.read import fine_px, read_detail, strips
from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig, TissueSpec
from digipath_ray.config.toml import from_tree
from digipath_ray.figures.overlay import draw_overlay
from digipath_ray.outcome.artifact_files import artifact_features
from digipath_ray.outcome.lesions import find_lesions
from digipath_ray.outcome.measure import find_hidden
from digipath_ray.pipeline.place import place_patches
from digipath_ray.pipeline.prepare import grid_of, prepare_slide
from digipath_ray.report.methods import write_methods
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.patch_table import prepare_digest, read_prepared
from digipath_ray.run.provenance import settings_digest
from digipath_ray.run.record import SlideRecord
from digipath_ray.schema import ARTIFACTS, SLIDES
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.files import json_digest
from digipath_ray.tissue.find import Tissue, find_tissue
from tests.flaws import (
    Bools,
    Pixels,
    band,
    defocused,
    disk,
    drawn_tissue,
    folded,
    gray,
    lens,
    ring,
    stained,
)
from tests.pixels import heatmap_of
from tests.runs import before_stains_and_artifacts
from tests.slides import write_pyramid

WIDTH, HEIGHT = 1400, 1100
TISSUE = drawn_tissue(WIDTH, HEIGHT)
SHAPE = TISSUE.shape[:2]


def write(folder: Path, pixels: Pixels, name: str = "s") -> Path:
    path = folder / f"{name}.tif"
    return write_pyramid(path, pixels, mpp=1.0, downsamples=(1,), tile=256)


def look(path: Path) -> tuple[Tissue, ArtifactMap]:
    with open_slide(path) as slide:
        thumbnail, mpp_x, mpp_y = slide.thumbnail(8.0)
        tissue = find_tissue(thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=TissueSpec())
        return tissue, find_artifacts(
            thumbnail, tissue, read_detail(slide, tissue.mask)
        )


def at_mask(where: Bools, found: ArtifactMap) -> Bools:
    height, width = found.indexes.shape
    rows = ((np.arange(height) + 0.5) * found.mpp_y).astype(int)
    cols = ((np.arange(width) + 0.5) * found.mpp_x).astype(int)
    return where[np.ix_(rows, cols)]


def fold() -> tuple[Pixels, Bools]:
    where = band(SHAPE, width_px=100, length_px=700, seed=1)
    return folded(TISSUE, where), where


def blur(radius: float) -> tuple[Pixels, Bools]:
    where = disk(SHAPE, x=800, y=550, radius_px=300)
    return defocused(TISSUE, where, radius_px=radius), where


def rim() -> tuple[Pixels, Bools]:
    # From glass to glass, across the tissue's upper edge.
    where = ring(SHAPE, x=700, y=300, radius_px=250, width_px=20)
    return stained(TISSUE, where, color=gray(0.6)), where


def blot() -> tuple[Pixels, Bools]:
    where = disk(SHAPE, x=700, y=550, radius_px=60)
    return stained(TISSUE, where, color=gray(0.9)), where


def pen() -> tuple[Pixels, Bools]:
    where = band(SHAPE, width_px=200, length_px=700, seed=1)
    return stained(TISSUE, where, color=(10, 60, 110)), where


def black_pen() -> tuple[Pixels, Bools]:
    where = np.zeros(SHAPE, np.bool_)
    where[400:600, 150:1250] = True
    return stained(TISSUE, where, color=gray(1.0)), where


FLAWED: dict[str, tuple[str, Callable[[], tuple[Pixels, Bools]], float]] = {
    "a disk of 2 um": ("blur", lambda: blur(2), 0.9),
    "a disk of 8 um": ("blur", lambda: blur(8), 0.85),
    "a fold": ("fold", fold, 0.8),
    "a bubble's rim": ("bubble", rim, 0.7),
    "blue pen": ("pen", pen, 0.9),
    "black pen": ("pen", black_pen, 0.9),
    "a blot": ("blot", blot, 0.9),
}


@pytest.mark.parametrize("name", FLAWED)
def test_what_was_put_in_is_found_there(name: str, tmp_path: Path) -> None:
    kind, make, least = FLAWED[name]
    pixels, where = make()
    tissue, found = look(write(tmp_path, pixels))
    inside = at_mask(where, found)
    over = ndimage.binary_dilation(tissue.mask.array, iterations=4)
    assert found.where(kind)[inside & over].mean() >= least
    # Within 40 um of it everything may be touched; beyond, nothing is.
    beyond = ~ndimage.binary_dilation(inside, iterations=5)
    assert (found.indexes[beyond] > 0).sum() == 0
    others = [k for k in ARTIFACTS if k != kind]
    assert found.where(*others).sum() <= 0.1 * found.where(kind).sum()


def test_clean_tissue_and_glass_have_none(tmp_path: Path) -> None:
    tissue, found = look(write(tmp_path, TISSUE))
    assert tissue.mask.array.mean() > 0.6
    assert not found.indexes.any()
    assert found.shares(tissue.mask) == dict.fromkeys(ARTIFACTS, 0.0)


def test_there_is_one_table_of_kinds() -> None:
    assert tuple(kind.name for kind in KINDS) == ARTIFACTS
    assert [kind.index for kind in KINDS] == list(range(1, len(KINDS) + 1))
    assert {f"artifact_{kind}" for kind in ARTIFACTS} <= set(SLIDES.names)
    assert all(kind.name in LEGEND and kind.meaning in LEGEND for kind in KINDS)


def test_a_lens_is_a_disk() -> None:
    kernel = lens(3.0)
    assert kernel.sum() == pytest.approx(1)
    assert np.array_equal(kernel, kernel.T)
    assert np.array_equal(kernel, kernel[::-1])
    assert kernel.max() * np.pi * 9 == pytest.approx(1, abs=0.03)
    assert (kernel[0] == 0).all()


def test_cells_are_those_of_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (5 * CELL_PX, 6 * CELL_PX, 3), dtype=np.uint8)
    found = measure_cells(rgb)
    assert found.energies.shape == (len(SCALES), 3, 4)
    gray_level = rgb.astype(float).mean(axis=2)
    for number, scale in enumerate(SCALES):
        shape = (-1, scale, gray_level.shape[1] // scale, scale)
        px = gray_level.reshape(shape).mean(axis=(1, 3))
        side = CELL_PX // scale
        for row in range(3):
            for col in range(4):
                total = 0.0
                for r in range((row + 1) * side, (row + 2) * side):
                    for c in range((col + 1) * side, (col + 2) * side):
                        around = px[r - 1, c] + px[r + 1, c] + px[r, c - 1]
                        total += (around + px[r, c + 1] - 4 * px[r, c]) ** 2
                got = found.energies[number, row, col]
                assert got == pytest.approx(total / side**2, rel=1e-3, abs=0.01)
    cell = rgb[CELL_PX : 2 * CELL_PX, CELL_PX : 2 * CELL_PX].astype(float)
    twos = cell.reshape(CELL_PX // 2, 2, CELL_PX // 2, 2, 3).mean(axis=(1, 3))
    assert found.darkest[0, 0].tolist() == np.floor(twos.min(axis=(0, 1))).tolist()
    assert found.gray[0, 0] == pytest.approx(cell.mean(), rel=1e-5)


def test_detail_read_in_strips_is_that_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, TISSUE[:500, :600])
    with open_slide(path) as slide:
        thumbnail, mpp_x, mpp_y = slide.thumbnail(8.0)
        tissue = find_tissue(thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=TissueSpec())
        whole = read_detail(slide, tissue.mask)
        monkeypatch.setattr("digipath_ray.artifacts.read.STRIP_CELLS", 7)
        monkeypatch.setattr("digipath_ray.artifacts.read.STRIP_COLS", 11)
        parts = read_detail(slide, tissue.mask)
    cells = whole.tissue
    assert np.array_equal(cells, parts.tissue)
    assert np.array_equal(whole.energies[:, cells], parts.energies[:, cells])
    assert np.array_equal(whole.gray[cells], parts.gray[cells])
    assert np.array_equal(whole.darkest[cells], parts.darkest[cells])
    assert (whole.energies[:, cells].mean(axis=1) > 100).all()


def test_strips_hold_every_cell_once() -> None:
    rng = np.random.default_rng(0)
    cells = rng.random((150, 900)) < 0.001
    cells[70:80, 100:800] = True
    seen = np.zeros(cells.shape, int)
    for top, bottom, left, right in strips(cells):
        assert cells[top:bottom, left:right].any()
        assert (bottom - top) * (right - left) <= 64 * 512
        seen[top:bottom, left:right] += 1
    assert seen.max() == 1
    assert (seen[cells] == 1).all()


@pytest.mark.parametrize(
    ("mpp", "um"), [(0.25, 1.0), (0.2428, 0.9712), (0.5, 1.0), (0.62, 1.0), (2.0, 2.0)]
)
def test_px_are_read_whole_where_they_are_about_one_um(
    mpp: float, um: float, tmp_path: Path
) -> None:
    path = write_pyramid(tmp_path / "s.tif", TISSUE[:64, :64], mpp=mpp)
    with open_slide(path, mpp=mpp) as slide:
        assert fine_px(slide.info) == pytest.approx((um / mpp, um / mpp))


def test_a_map_is_a_png_that_any_program_shows(tmp_path: Path) -> None:
    indexes = np.arange(60, dtype=np.uint8).reshape(6, 10) % (len(KINDS) + 1)
    path = tmp_path / "a.png"
    write_artifacts(path, ArtifactMap(indexes=indexes, mpp_x=8.0, mpp_y=4.0))
    found = read_artifacts(path)
    assert np.array_equal(found.indexes, indexes)
    assert (found.mpp_x, found.mpp_y) == pytest.approx((8.0, 4.0), rel=1e-4)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.info["Legend"] == LEGEND
        colors = np.asarray(image.convert("RGB"))
    for kind in KINDS:
        assert (colors[indexes == kind.index] == kind.color).all()
    assert (colors[indexes == 0] == 255).all()


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (4, 4)).save(path)
    with pytest.raises(ValueError, match="no map of artifacts"):
        read_artifacts(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="cannot read the image"):
        read_artifacts(path)
    image = Image.fromarray(np.full((4, 4), 9, np.uint8), "P")
    image.putpalette([0, 0, 0] * 10)
    image.save(path, dpi=(3175, 3175))
    with pytest.raises(ValueError, match="9, which is no kind's index"):
        read_artifacts(path)


def config_of(**artifacts: object) -> RunConfig:
    return from_tree(
        {
            "grid": {"mpp": 1.0, "patch_px": 128, "stride_px": 64, "downsample": 8},
            "artifacts": artifacts,
        }
    )


def test_wrong_settings_are_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"artifacts\.exclude = 'dust': of blur, fold"):
        config_of(find=True, exclude=["blur", "dust"])
    with pytest.raises(ValueError, match="each kind once"):
        config_of(find=True, exclude=["blur", "blur"])
    with pytest.raises(ValueError, match=r"set find = true in \[artifacts\]"):
        config_of(exclude=["blur"])
    with pytest.raises(ValueError, match=r"tissue\.mask_mpp = 32\.0"):
        from_tree({"tissue": {"mask_mpp": 32.0}, "artifacts": {"find": True}})


def test_off_is_what_older_versions_noted() -> None:
    """Digests of settings that runs of before hold do not change."""
    off, on = config_of(), config_of(find=True)
    assert settings_digest(off) != settings_digest(on)
    assert prepare_digest(off) != prepare_digest(on)
    before = {"slide", "tissue", "grid", "ensemble", "members"}
    tree = before_stains_and_artifacts(off)
    assert settings_digest(off) == json_digest(
        {k: tree[k] for k in tree if k in before}
    )
    kept = {k: tree[k] for k in ("slide", "tissue", "grid")}
    assert prepare_digest(off) == json_digest(kept)


@pytest.mark.parametrize("margin_um", [0.0, 100.0])
def test_patches_of_nothing_else_are_left_out(margin_um: float, tmp_path: Path) -> None:
    pixels, _ = blur(6)
    path = write(tmp_path, pixels)
    tissue, found = look(path)
    config = config_of(find=True, exclude=["blur"])
    spec = dataclasses.replace(config.tissue, margin_um=margin_um)
    config = dataclasses.replace(config, tissue=spec)
    sampling = tissue.mask.dilated(margin_um)
    tissue = dataclasses.replace(tissue, sampling=sampling)
    with open_slide(path) as slide:
        grid = grid_of(slide, config)
    kept = {(int(r), int(c)) for r, c in place_patches(grid, tissue, found, config)}
    every = {(int(r), int(c)) for r, c in place_patches(grid, tissue, None, config)}
    wanted = set()
    trusted = tissue.mask.array & (found.indexes != 1)
    near = tissue.mask.like(trusted).dilated(margin_um).array
    for row in range(grid.rows):
        for col in range(grid.cols):
            y0, x0 = row * 64 / found.mpp_y, col * 64 / found.mpp_x
            rows = slice(int(y0 + 1e-6), int(np.ceil(y0 + 128 / found.mpp_y - 1e-6)))
            cols = slice(int(x0 + 1e-6), int(np.ceil(x0 + 128 / found.mpp_x - 1e-6)))
            if near[rows, cols].any():
                wanted.add((row, col))
    assert kept == wanted
    assert len(every - kept) >= 8
    assert kept < every


def prepared(
    folder: Path, pixels: Pixels, config: RunConfig
) -> tuple[RunDirectory, SlideRecord]:
    run = RunDirectory(folder / "run")
    run.create()
    row = SlideRow(slide_id="s", path=str(write(folder, pixels)))
    record = prepare_slide(row, config, run)
    if config.artifacts.find:
        assert read_prepared(run, row, config) == record
        run.artifacts("s").unlink()
        assert read_prepared(run, row, config) is None, "its map is gone"
        assert prepare_slide(row, config, run) == record
    return run, record


def test_a_slide_is_prepared_with_its_map(tmp_path: Path) -> None:
    pixels, _ = blur(6)
    run, record = prepared(tmp_path, pixels, config_of(find=True))
    found = read_artifacts(run.artifacts("s"))
    mm2 = found.where("blur").sum() * found.mpp_x * found.mpp_y / 1e6
    assert record.artifacts["blur"] == pytest.approx(mm2 / record.tissue_mm2, rel=1e-3)
    assert record.artifacts["blur"] > kinds.FLAG_SHARE
    assert "artifact: blur" in record.qc
    assert record.to_row()["artifact_fold"] == 0.0
    text = run.artifact_outlines("s").read_text()
    assert '"artifact: blur"' in text
    assert "artifact: fold" not in text


def test_off_makes_nothing(tmp_path: Path) -> None:
    run, record = prepared(tmp_path, TISSUE, config_of())
    assert record.artifacts == {}
    assert record.to_row()["artifact_blur"] is None
    assert not (run.root / "artifacts").exists()


def test_a_slide_out_of_focus_says_so_before_it_is_predicted(tmp_path: Path) -> None:
    everywhere = np.ones(SHAPE, np.bool_)
    pixels = defocused(TISSUE, everywhere, radius_px=5)
    with pytest.raises(SlideError, match=r"trusted: out of focus \((99|100) ?%\)") as e:
        prepared(tmp_path, pixels, config_of(find=True, exclude=["blur"]))
    assert "scanned" in e.value.hint
    run = RunDirectory(tmp_path / "run")
    assert read_artifacts(run.artifacts("s")).where("blur").mean() > 0.5


def test_outlines_cover_the_map(tmp_path: Path) -> None:
    path = write(tmp_path, TISSUE[:300, :300])
    indexes = np.zeros((38, 38), np.uint8)
    indexes[3:9, 4:20], indexes[30:, 30:] = 2, 5
    found = ArtifactMap(indexes=indexes, mpp_x=8.0, mpp_y=8.0)
    with open_slide(path, mpp=0.5) as slide:
        features = list(artifact_features(found, slide.info))
    names = [f["properties"]["classification"]["name"] for f in features]
    assert names == ["artifact: fold", "artifact: blot"]
    shape = shapely.from_geojson(json.dumps(features[0]["geometry"]))
    assert shape.bounds == (64.0, 48.0, 300.0, 144.0)  # 16 level-0 px per map px


def test_a_lesion_lies_in_the_kind_that_most_of_it_does() -> None:
    p = np.zeros((10, 30), np.float32)
    p[2:6, 2:12] = 0.9
    p[2:6, 20:24] = 0.9
    artifacts = np.zeros(p.shape, np.uint8)
    artifacts[2:6, 2:8], artifacts[2:6, 8:9], artifacts[5, 20] = 1, 2, 4
    lesions = find_lesions(heatmap_of(p), 0.5)
    assert find_hidden(lesions, None) is None
    assert find_hidden(lesions, artifacts) == {
        1: (pytest.approx(0.7), "blur"),
        2: (pytest.approx(1 / 16), "pen"),
    }


def test_the_overlay_outlines_them() -> None:
    indexes = np.zeros((20, 30), np.uint8)
    indexes[4:12, 4:20], indexes[15:, 25:] = 2, 5
    heatmap = heatmap_of(np.full(indexes.shape, 0.2))
    thumbnail = np.full((*indexes.shape, 3), 230, np.uint8)
    said = {"title": "s", "notes": [], "threshold": 0.5, "thumbnail_mpp": (8.0, 8.0)}
    plain = draw_overlay(thumbnail, heatmap, **said)
    drawn = draw_overlay(thumbnail, heatmap, **said, artifacts=indexes)
    none = draw_overlay(thumbnail, heatmap, **said, artifacts=indexes * 0)
    outlines = [len(f.axes[0].collections) for f in (plain, none, drawn)]
    assert outlines == [0, 0, 2]
    (left, top), (right, bottom) = (
        getattr(drawn.axes[0].collections[0].get_paths()[0].get_extents(), name)
        for name in ("min", "max")
    )
    assert (left, top, right, bottom) == pytest.approx((32, 32, 160, 96), abs=0.1)
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert [t for t in texts if t.startswith("\N{BLACK SQUARE}")] == [
        "\N{BLACK SQUARE} fold",
        "\N{BLACK SQUARE} blot",
    ]


def test_the_methods_say_what_was_looked_for() -> None:
    def first(config: RunConfig) -> str:
        return write_methods(config, {}, precision=None)[0]

    assert "rtifact" not in first(config_of())
    said = first(config_of(find=True, exclude=["blur", "pen"]))
    assert "Artifacts (blur, fold, bubble, pen and blot) were mapped" in said
    assert "all of whose tissue lies in blur and pen were left out" in said


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 40), (300, 9)])
def test_slides_smaller_than_a_window_are_looked_at(
    width: int, height: int, tmp_path: Path
) -> None:
    path = tmp_path / "s.png"
    Image.fromarray(TISSUE[300 : 300 + height, 300 : 300 + width]).save(path)
    with open_slide(path, mpp=1.0) as slide:
        thumbnail, mpp_x, mpp_y = slide.thumbnail(8.0)
        tissue = find_tissue(
            thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=TissueSpec(tissue="all")
        )
        found = find_artifacts(thumbnail, tissue, read_detail(slide, tissue.mask))
    assert found.indexes.shape == tissue.mask.array.shape
    assert not found.indexes.any()
