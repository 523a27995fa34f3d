"""Classes kept beside tumor: maps, areas and outlines; tumor stays what it was."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely
import tifffile
import torch
from numpy.typing import NDArray

from digipath_ray.cli import run_app
from digipath_ray.config.classes import check_classes, kept_classes
from digipath_ray.config.difference import difference
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.config.toml import Tree, from_tree, merge, to_tree
from digipath_ray.geometry import model_frame
from digipath_ray.heatmap.classes import color_of, likeliest, packed
from digipath_ray.heatmap.file import read_heatmap, write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.networks.adaptive import cover
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.ensemble import MemberError, MemberMaps, combine_members
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.weights import load_member
from digipath_ray.outcome.classes import class_features, find_classes
from digipath_ray.outcome.lesions import MOST
from digipath_ray.patches import Grid, cell_bytes, share_blocks
from digipath_ray.pipeline.finish import remeasure_slide
from digipath_ray.pipeline.prepare import stitch_bytes
from digipath_ray.report import write_report
from digipath_ray.report.methods import write_methods
from digipath_ray.run.compare import compare_heatmaps
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide, read_run
from digipath_ray.run.provenance import settings_digest
from digipath_ray.storage.files import json_digest, read_table
from digipath_ray.verify.maps import check_class_maps, check_values
from digipath_ray.verify.repeat import Repeated, repeat_chunks
from digipath_ray.verify.verify import verify_run
from digipath_ray.viewer.collection.collection import open_collection
from digipath_ray.viewer.collection.entries import key_of
from digipath_ray.viewer.tiles.layers import At
from digipath_ray.viewer.tiles.maps import Maps
from tests.pixels import NUMPY_TURNS
from tests.records import record_of
from tests.runs import (
    SMALL,
    before_stains_and_artifacts,
    heatmaps,
    make_run,
    small_config,
    write_cohort,
)
from tests.viewing import client, decode

CLASSES = ("stroma", "tumor", "Fett & Öl")
KNOWS: Tree = {
    "classes": list(CLASSES),
    "tumor_classes": ["tumor", CLASSES[2]],
    "options": {"classes": 3},
}
KEEP: Tree = {"ensemble": {"keep_classes": True}}


def three(changes: Tree | None = None) -> RunConfig:
    """Two tiny networks that know three classes, two of them tumor."""
    members = [{**m, **KNOWS} for m in SMALL["members"]]
    return small_config(merge({"members": members}, changes or {}))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run in this process that keeps classes."""
    folder = tmp_path_factory.mktemp("kept")
    return make_run(folder / "run", write_cohort(folder / "cohort", 1), three(KEEP))


@pytest.fixture(scope="module")
def plain(kept: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same without."""
    folder = tmp_path_factory.mktemp("plain")
    return make_run(folder / "run", write_cohort(folder / "cohort", 1), three())


# Tumor is what it was


def test_tumor_is_the_same_to_the_bit(kept: RunDirectory, plain: RunDirectory) -> None:
    (a,), (b,) = heatmaps(kept).values(), heatmaps(plain).values()
    assert a.channels == (*b.channels, *(f"class:{name}" for name in CLASSES))
    np.testing.assert_array_equal(a.data[: len(b.channels)], b.data)
    np.testing.assert_array_equal(a.weight, b.weight)
    assert kept.lesions("s00").read_bytes() == plain.lesions("s00").read_bytes()
    assert kept.overlay("s00").read_bytes() == plain.overlay("s00").read_bytes()
    (with_classes,), (without,) = (
        read_table(run.outcomes).to_pylist() for run in (kept, plain)
    )
    assert without["classes"] is without["class_mm2"] is None
    columns = {"classes", "class_mm2", "seconds"}
    assert {k: v for k, v in with_classes.items() if k not in columns} == {
        k: v for k, v in without.items() if k not in columns
    }
    assert not plain.class_outlines("s00").exists()


def test_settings_without_it_are_those_of_older_versions() -> None:
    older = before_stains_and_artifacts(three())
    assert difference(older, to_tree(three())) == []
    with_it = difference(older, to_tree(three(KEEP)))
    assert with_it == ["ensemble.keep_classes: False -> True"]
    kept = {k: v for k, v in older.items() if k not in ("compute", "outcome")}
    assert settings_digest(three()) == json_digest(kept)
    assert settings_digest(three(KEEP)) != settings_digest(three())


# What the maps are


def naive_classes(
    config: RunConfig, pixels: NDArray[np.uint8], cells: NDArray[np.int32]
) -> dict[str, NDArray[np.float64]]:
    """Each class's mean over members and transforms, patch by patch, in numpy."""
    spec, side = config.grid, config.grid.hm_patch
    members = [load_member(m) for m in config.members]
    step = spec.hm_stride
    rows, cols = cells.max(axis=0) * step + side
    total, weight = np.zeros((len(CLASSES), rows, cols)), np.zeros((rows, cols))
    for row, col in cells:
        y, x = row * spec.stride_px, col * spec.stride_px
        patch = pixels[y : y + spec.patch_px, x : x + spec.patch_px].transpose(2, 0, 1)
        answers = []
        for member in members:
            for apply, undo in (NUMPY_TURNS[t] for t in config.ensemble.tta):
                turned = torch.from_numpy(np.ascontiguousarray(apply(patch)))[None]
                e = np.exp(member.answers(turned).numpy()[0].astype(np.float64))
                whole = undo(e / e.sum(0))
                d = spec.downsample
                squares = whole.reshape(len(CLASSES), side, d, side, d)
                answers.append(squares.mean((2, 4)))
        here = np.s_[
            ..., row * step : row * step + side, col * step : col * step + side
        ]
        total[here] += np.mean(answers, axis=0)
        weight[here] += 1
    means = np.divide(total, weight, out=total, where=weight > 0)
    return dict(zip(CLASSES, means, strict=True))


CELLS = np.argwhere(np.ones((3, 4), bool)).astype(np.int32)


def chunk_of(config: RunConfig) -> tuple[NDArray[Any], ...]:
    """Random pixels, and their blocks."""
    blocks, index = share_blocks(CELLS, config.grid.blocks_per_side)
    side = config.grid.stride_px
    rows, cols = blocks.max(axis=0) + 1
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (rows * side, cols * side, 3), np.uint8)
    cut = [pixels[r * side :, c * side :][:side, :side] for r, c in blocks]
    return pixels, np.stack(cut), index


def blended(
    values: dict[str, NDArray[np.float32]], config: RunConfig, name: str
) -> NDArray[np.float64]:
    """A channel of patches, averaged where they overlap."""
    side, step = config.grid.hm_patch, config.grid.hm_stride
    rows, cols = CELLS.max(axis=0) * step + side
    total, weight = np.zeros((rows, cols)), np.zeros((rows, cols))
    for (row, col), patch in zip(CELLS, values[name], strict=True):
        here = np.s_[row * step : row * step + side, col * step : col * step + side]
        total[here] += patch
        weight[here] += 1
    return total / weight


def test_a_class_is_the_mean_over_members_and_transforms() -> None:
    config = three(merge(KEEP, {"ensemble": {"tta": ["rot90", "vflip", "identity"]}}))
    pixels, blocks, index = chunk_of(config)
    maps = EnsemblePredictor(config.members, config).predict(blocks, index)
    values = combine_members(maps, config)
    assert tuple(values) == config.channels
    want = naive_classes(config, pixels, CELLS)
    for name in CLASSES:
        found = blended(values, config, f"class:{name}")
        np.testing.assert_allclose(found, want[name], atol=1e-6)
    tumor = values["class:tumor"] + values[f"class:{CLASSES[2]}"]
    np.testing.assert_allclose(tumor, values["probability"], atol=1e-6)
    assert np.ptp(want["tumor"]) > 0.05


def predict(config: RunConfig) -> MemberMaps:
    _, blocks, index = chunk_of(config)
    return EnsemblePredictor(config.members, config).predict(blocks, index)


@pytest.mark.parametrize("changes", [{}, {"grid": {"overlap": "adaptive"}}])
def test_pools_of_one_member_give_the_same_to_the_bit(changes: Tree) -> None:
    config = three(merge(merge(KEEP, changes), {"grid": {"doubt": 0.7}}))
    _, blocks, index = chunk_of(config)
    together, maps = predict(config), None
    for member in config.members:
        maps = EnsemblePredictor([member], config).predict(blocks, index, maps)
    assert maps is not None
    assert maps.classes is not None
    np.testing.assert_array_equal(maps.classes, together.classes)
    assert maps.predicted.all() == (not changes)


def test_adaptive_overlap_spreads_the_first_pass_over_classes() -> None:
    config = three(merge(KEEP, {"grid": {"overlap": "adaptive", "doubt": 1.0}}))
    _, _, index = chunk_of(config)
    first = cover(index, int(index.max()) + 1)
    found, full = predict(config), predict(three(KEEP))
    assert found.classes is not None
    assert full.classes is not None
    np.testing.assert_allclose(
        found.classes[:, first], full.classes[:, first], atol=1e-6
    )
    values = combine_members(found, config)
    assert np.isnan(values["class:stroma"][~found.predicted.any(axis=0)]).all()
    np.testing.assert_allclose(found.classes.sum(0), len(config.members), atol=1e-5)
    # What stands for a patch of the second pass is the first pass, of each.
    tumor = found.classes[1] + found.classes[2]
    np.testing.assert_allclose(tumor, found.means.sum(0), atol=1e-5)


def test_in_a_cascade_a_class_is_the_mean_of_the_members_that_saw_the_patch() -> None:
    config = three(
        merge(
            KEEP,
            {"ensemble": {"cascade": True}, "grid": {"doubt": 0.73, "doubt_um": 8.0}},
        )
    )
    found, full = predict(config), predict(three(KEEP))
    assert 0 < found.seen[1].sum() < len(CELLS)
    values = combine_members(found, config)
    alone = combine_members(
        EnsemblePredictor(config.members[:1], config).predict(*chunk_of(config)[1:]),
        replace(config, members=config.members[:1]),
    )
    both = combine_members(full, three(KEEP))
    for name in CLASSES:
        for seen, want in ((found.seen[1], both), (~found.seen[1], alone)):
            got = values[f"class:{name}"][seen]
            np.testing.assert_allclose(got, want[f"class:{name}"][seen], atol=1e-6)


@pytest.mark.parametrize(("stride", "cut"), [(1, 0), (2, 0), (2, 4)])
def test_classes_lie_where_tumor_lies(stride: int, cut: int) -> None:
    says = Answer(channels=3, tumor=(1,), stride=stride, border_px=cut)
    side = (16 - 2 * cut) // stride
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, side, side)))
    e = np.exp(logits.numpy())
    each = np.kron(e / e.sum(1, keepdims=True), np.ones((stride, stride)))
    each = np.pad(each, ((0, 0), (0, 0), (cut, cut), (cut, cut)))
    found = says.sums(logits, (16, 16), [(0,), (1,), (1, 2)]).numpy()
    want = np.stack([each[:, 0], each[:, 1], each[:, 1:].sum(1)], 1)
    np.testing.assert_allclose(found, want, atol=1e-6)
    tumor = says.posterior(logits, (16, 16)).numpy()
    np.testing.assert_array_equal(found[:, 1], tumor)


def test_what_is_no_probability_is_refused_by_the_name_of_its_class() -> None:
    config = three(KEEP)
    member = replace(config.members[1], output="probabilities")
    config = replace(config, members=(config.members[0], member))
    with pytest.raises(MemberError, match="member b: its class:tumor runs from"):
        predict(config)


# What cannot be kept


def row(name: str, **changes: Any) -> Tree:
    return {"name": name, "architecture": "onnx", **KNOWS, "options": {}, **changes}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [row("a"), {"name": "b", "architecture": "Unet"}],
            "member a knows the classes stroma, .* Öl, member b other, tumor: all must",
        ),
        (
            [row("a"), row("b", classes=[*CLASSES[1:], CLASSES[0]])],
            "same classes in the same order. Leave out --keep-classes",
        ),
        (
            [row("a", activation="sigmoid", tumor_classes=["tumor"])],
            "softmax with keep_classes: .*Leave out --keep-classes",
        ),
        ([row("a", classes=["a/b", *CLASSES])], "'a/b': .*mend it in the card"),
        ([row("a", classes=["a;b", *CLASSES])], "'a;b'"),
        ([row("a", classes=[" ", *CLASSES])], "' ': with keep_classes a name"),
        ([row("a", classes=["a\n", *CLASSES])], "mend it in the card"),
    ],
)
def test_what_cannot_be_kept_is_refused(members: list[Tree], message: str) -> None:
    from_tree({"members": members})
    with pytest.raises(ValueError, match=message):
        from_tree({"members": members, **KEEP})


def test_members_left_by_out_of_fold_keep_their_classes() -> None:
    config = three(KEEP)
    alone = replace(config, members=config.members[1:])
    assert kept_classes(alone.channels) == CLASSES
    assert "epistemic" not in alone.channels


# The whole tumor of networks that know it

WHOLE: Tree = {"whole_classes": ["tumor", CLASSES[2]], "tumor_classes": ["tumor"]}


def knowing_whole(changes: Tree | None = None) -> RunConfig:
    """Two networks that know viable and whole tumor."""
    members = [{**m, **KNOWS, **WHOLE} for m in SMALL["members"]]
    return small_config(merge({"members": members}, changes or {}))


def test_the_whole_tumor_is_a_channel_and_tumor_stays() -> None:
    config = knowing_whole()
    assert config.channels[-1] == "whole"
    assert knowing_whole(KEEP).class_channels[0] == "whole"
    found, all_three = (combine_members(predict(c), c) for c in (config, three(KEEP)))
    # There both classes are tumor.
    np.testing.assert_array_equal(found["whole"], all_three["probability"])
    np.testing.assert_allclose(
        found["probability"], all_three["class:tumor"], atol=1e-7
    )
    assert settings_digest(config) != settings_digest(three())


def test_a_run_says_what_its_whole_tumor_is(tmp_path: Path) -> None:
    outcome = {
        "outcome": "burden",
        "threshold": 0.4,
        "viable_close_um": 0.0,
        "viable_open_um": 0.0,
        "min_viable_mm2": 0.0,
    }
    config = knowing_whole({"outcome": outcome})
    run = make_run(tmp_path / "run", write_cohort(tmp_path / "cohort", 1), config)
    (told,) = read_table(run.outcomes).to_pylist()
    slide = read_run(run).slide("s00")
    viable, whole = (slide.heatmap.data[i] >= 0.4 for i in (0, -1))
    viable, whole = viable & slide.predicted, (viable | whole) & slide.predicted
    assert 0 < viable.sum() < whole.sum()
    assert told["burden"] == pytest.approx(viable.sum() / whole.sum())
    assert told["whole_from"] == "networks"
    assert verify_run(run).is_right
    write_report(run)
    assert "by the networks" in run.report.read_text("utf-8")
    text = " ".join(write_methods(config, {}, precision=None))
    assert "probability of tumor and Fett & Öl reaches the same threshold" in text
    with pytest.raises(ValueError, match="no hull to refine"):
        knowing_whole({"outcome": {**outcome, "refine_hull": True}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"whole_classes": ["stroma"]}, r"whole_classes = .*include the tumor_classes"),
        ({"whole_classes": list(CLASSES)}, r"and not all classes \(softmax\)"),
        ({"whole_classes": ["fat"]}, r"whole_classes = .*must be of classes"),
        ({"whole_classes": ["tumor", "tumor"]}, "must be of classes"),
        (
            {"activation": "sigmoid", "whole_classes": ["tumor", "stroma"]},
            "whole_classes = .*must be one with sigmoid",
        ),
    ],
)
def test_a_whole_tumor_that_is_none_is_refused(changes: Tree, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_tree({"members": [row("a", **{**WHOLE, **changes})]})


def test_nested_answers_are_viable_and_whole() -> None:
    says = {"activation": "sigmoid", "tumor_classes": ["tumor"]}
    config = from_tree({"members": [row("a", **says, whole_classes=["stroma"])]})
    assert config.class_channels == ("whole",)


def test_all_members_know_the_whole_tumor_or_none() -> None:
    rows = [row("a", **WHOLE), row("b")]
    message = "member b names no whole_classes, but a does .*whole_classes = \\[\\]"
    with pytest.raises(ValueError, match=message):
        from_tree({"members": rows})
    without = from_tree({"members": [{**rows[0], "whole_classes": []}, rows[1]]})
    assert without.class_channels == ()


# Areas and outlines


def map_of_classes(shape: tuple[int, int] = (40, 60)) -> Heatmap:
    """Random classes; the last columns were not predicted."""
    data = np.random.default_rng(3).dirichlet([1, 1, 1], shape).transpose(2, 0, 1)
    weight = np.ones(shape, np.float32)
    weight[:, -7:] = 0
    data = np.concatenate([data[1:].sum(0, keepdims=True), data]) * weight
    return Heatmap(
        channels=("probability", *(f"class:{name}" for name in CLASSES)),
        data=data.astype(np.float32),
        weight=weight,
        mpp_x=8.0,
        mpp_y=4.0,
    )


def test_areas_are_of_the_likeliest_class_over_tissue() -> None:
    heatmap = map_of_classes((600, 60))
    heatmap.data[1:, 5, 5] = 1 / 3  # of equal ones the first
    over = np.random.default_rng(0).random((600, 60)) < 0.7
    over &= heatmap.covered
    found = find_classes(heatmap, over)
    assert found is not None
    want = np.zeros(3)
    for y, x in np.argwhere(over):
        want[np.argmax(heatmap.data[1:, y, x])] += 8 * 4 / 1e6
    np.testing.assert_allclose(found.mm2, want)
    assert found.row == {"classes": list(CLASSES), "class_mm2": list(found.mm2)}
    assert sum(found.mm2) == pytest.approx(over.sum() * 32e-6)
    assert (found.indexes == 0).sum() == (~over).sum()
    bare = replace(heatmap, channels=("probability",), data=heatmap.data[:1])
    assert find_classes(bare, over) is None
    assert likeliest(bare) is None


def test_a_run_has_areas_and_outlines_of_each_class(kept: RunDirectory) -> None:
    finished = read_run(kept)
    slide = finished.slide("s00")
    (told,) = read_table(kept.outcomes).to_pylist()
    assert told["classes"] == list(CLASSES)
    indexes = slide.heatmap.data[-3:].argmax(axis=0)
    px_mm2 = slide.heatmap.mpp_x * slide.heatmap.mpp_y / 1e6
    want = [(slide.predicted & (indexes == i)).sum() * px_mm2 for i in range(3)]
    assert told["class_mm2"] == pytest.approx(want)
    features = json.loads(kept.class_outlines("s00").read_text())["features"]
    there = [i for i in range(3) if want[i]]
    assert len(there) > 1
    for i, found in zip(there, features, strict=True):
        properties = found["properties"]
        color = list(color_of(CLASSES[i], i))
        assert properties["classification"] == {"name": CLASSES[i], "color": color}
        assert properties["measurements"]["Area mm^2"] == pytest.approx(want[i])
        shape = shapely.from_geojson(json.dumps(found["geometry"]))
        level0_mm2 = finished.records["s00"].slide.mpp_x ** 2 / 1e6
        # Of pixels at the slide's edge, what lies on the slide.
        assert shape.area * level0_mm2 == pytest.approx(want[i], rel=0.02)
        inside = shapely.contains_xy(
            shape, *(np.argwhere(slide.predicted & (indexes == i))[:, ::-1].T + 0.5) * 4
        )
        assert inside.all()


def test_noise_is_outlined_by_its_largest_pieces(tmp_path: Path) -> None:

    data = np.zeros((4, 240, 240), np.float32)
    data[1] = 1
    data[2, ::2, ::2] = 2  # 14,400 specks
    data[2, 100:103, 100:103] = 2
    heatmap = replace(
        map_of_classes((240, 240)), data=data, weight=np.ones((240, 240), np.float32)
    )
    over = np.ones((240, 240), bool)
    found = find_classes(heatmap, over)
    assert found is not None
    record = record_of(width=2400, height=2400)
    slide = FinishedSlide(record=record, heatmap=heatmap, tissue=over, members=("a",))
    stroma, tumor = class_features(slide, found)
    assert stroma["properties"]["name"] == "stroma"
    specks = 120 * 120 - 3
    name = f"tumor (the {MOST:,} largest of {specks:,} pieces)"
    assert tumor["properties"]["name"] == name
    assert len(tumor["geometry"]["coordinates"]) == MOST


def test_channels_are_named_and_colored_in_the_file(tmp_path: Path) -> None:
    heatmap, path = map_of_classes(), tmp_path / "s.ome.tiff"
    write_heatmap(path, heatmap, name="s")
    assert read_heatmap(path).channels == heatmap.channels
    with tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata
    assert text is not None
    channels = [c for c in ElementTree.fromstring(text).iter() if "Channel" in c.tag]
    names = [c.get("Name") for c in channels]
    assert names == [*heatmap.channels, "weight"]
    colors = [int(str(c.get("Color"))) for c in channels]
    # Red, green, blue, alpha, from the highest byte on, as a signed number.
    want = [(255, 255, 255), (150, 200, 150), (200, 0, 0), (0, 158, 115)]
    for color, (red, green, blue) in zip(colors, [*want, want[0]], strict=True):
        assert color % (1 << 32) == red << 24 | green << 16 | blue << 8 | 255
        assert -(1 << 31) <= color < 1 << 31
    assert packed((255, 255, 255)) == -1, "OME's default: white"


# Everything that reads a run


def test_a_run_that_keeps_classes_is_whole(kept: RunDirectory) -> None:
    assert verify_run(kept).is_right
    config, done = read_run(kept).config, [*kept.read_done().values()]
    (found,) = repeat_chunks(kept, done, config, 1, seed=0, device="cpu")
    assert isinstance(found, Repeated)
    assert found.largest < 1e-5


def test_outlines_that_are_gone_are_found(kept: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(kept.root, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.class_outlines("s00").unlink()
    (fault,) = verify_run(run).faults
    assert (fault.where, fault.kinds) == ("classes/s00.geojson", ("class_outlines",))
    remeasure_slide(run, run.read_record("s00"), read_run(run).config)
    again = run.class_outlines("s00").read_bytes()
    assert again == kept.class_outlines("s00").read_bytes()


def test_classes_that_do_not_add_up_are_found() -> None:
    config = three(KEEP)
    good = map_of_classes()
    assert [*check_class_maps(good, config)] == []
    assert [*check_values(good, cascade=False)] == []
    for channel, what in (
        (1, "all classes add up to 1.1, not 1"),
        (0, "the tumor classes add up to"),
    ):
        bad = replace(good, data=good.data.copy())
        bad.data[channel, 3, 4:6] += 0.1
        (said,) = check_class_maps(bad, config)
        assert what in said
        assert "2 px, the first in row 3, column 4" in said
    (said,) = check_class_maps(good, three())
    assert "has the classes' channels class:stroma" in said
    beyond = replace(good, data=good.data * np.float32(1.1))
    assert any(s.startswith("class:") for s in check_values(beyond, cascade=False))


def test_runs_are_compared_class_by_class() -> None:
    a = map_of_classes()
    b = replace(a, data=np.concatenate([a.data[:1], a.data[[2, 1, 3]]]))
    rows = {row["channel"]: row for row in compare_heatmaps(a, b, 0.5)}
    assert list(rows) == list(a.channels)
    there = a.covered
    left, right = (h.data[1:].argmax(0) for h in (a, b))
    for i, name in enumerate(CLASSES):
        first, second = there & (left == i), there & (right == i)
        dice = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert rows[f"class:{name}"]["dice"] == pytest.approx(dice)
    assert rows[f"class:{CLASSES[2]}"]["dice"] == 1


def test_classes_are_layers_of_the_viewer(kept: RunDirectory) -> None:
    entry = open_collection([kept.root]).latest.entries[key_of("s00")]
    maps = Maps(AnnotationSpec())
    layers = {layer.name: layer for layer in maps.layers(entry)}
    run = layers["probability"].run
    heatmap, served = read_heatmap(kept.heatmap("s00")), client(kept)
    for name in CLASSES:
        layer = layers[f"class:{name}"]
        assert (layer.label, layer.unit, layer.high) == (name, "probability", 1.0)
        tile = decode(maps.png(entry, run, layer.name, At(0, 0, 0)))
        answer = served.get(f"/api/slides/{entry.key}/maps/{layer.id}/0/0_0.png")
        np.testing.assert_array_equal(decode(answer.content), tile)
        values = heatmap.channel(layer.name)
        assert values is not None
        want = np.where(heatmap.covered, 1 + np.rint(254 * values), 0)
        np.testing.assert_array_equal(tile, want)
    y, x = np.argwhere(heatmap.covered)[0]
    values_at = maps.values(entry, x * 4 + 2, y * 4 + 2)
    assert values_at[f"{run}/class:tumor"] == heatmap.channel("class:tumor")[y, x]


def test_areas_are_exported_and_reported(kept: RunDirectory, tmp_path: Path) -> None:
    command = ["export", str(kept.root), "--out", str(tmp_path), "--format"]
    assert run_app([*command, "csv"]) == 0
    with (tmp_path / "outcomes.csv").open(encoding="utf-8") as file:
        (cells,) = csv.DictReader(file)
    assert cells["classes"] == ";".join(CLASSES)
    (told,) = read_table(kept.outcomes).to_pylist()
    assert [float(v) for v in cells["class_mm2"].split(";")] == told["class_mm2"]
    assert run_app([*command, "geojson"]) == 0
    written = (tmp_path / "s00_classes.geojson").read_bytes()
    assert written == kept.class_outlines("s00").read_bytes()


def test_the_report_tells_of_the_areas(kept: RunDirectory, tmp_path: Path) -> None:

    write_report(kept)
    page = kept.report.read_text("utf-8")
    assert "likeliest class" in page
    assert "Fett &amp; Öl 0 mm²" in page
    assert "classes/s00.geojson" in page
    said = "that of each class (stroma, tumor and Fett & Öl)"
    assert said in " ".join(write_methods(three(KEEP), {}, precision=None))
    assert said not in " ".join(write_methods(three(), {}, precision=None))


def test_memory_of_classes_is_planned() -> None:

    spec = three().grid
    frame = model_frame(
        level_downsamples=(1.0,), mpp_x=1.0, mpp_y=1.0, mpp=1.0, allow_upsampling=False
    )
    grid = Grid(spec=spec, frame=frame, md_width=4000, md_height=2000)
    more = stitch_bytes(grid, three(KEEP)) / stitch_bytes(grid, three())
    assert more == pytest.approx((4 + 3) / 4)
    assert cell_bytes(three(KEEP)) == cell_bytes(three()) + 3 * 16**2 * 4


def test_a_member_spec_says_what_a_channel_sums() -> None:
    spec = MemberSpec(name="a", architecture="onnx")
    config = from_tree({"members": [to_tree_of(spec)], **KEEP})
    assert config.class_channels == ("class:other", "class:tumor")


def to_tree_of(spec: MemberSpec) -> Tree:
    return {"name": spec.name, "architecture": spec.architecture}


def test_kept_classes_differ_by_more_than_case():
    says = MemberSpec(name="x", architecture="Unet", classes=("b", "Tumor", "tumor"))
    check_classes([says], keep_classes=False)
    with pytest.raises(ValueError, match="differ by more than case"):
        check_classes([says], keep_classes=True)
