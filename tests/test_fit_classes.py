"""Fits of several classes: what annotations mean, the loss, Dice, card, and a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import logsigmoid

from digipath_ray.annotations import LayeredAnnotation, Window, read_annotation
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.difference import difference
from digipath_ray.config.fit_classes import ClassSpec
from digipath_ray.config.recipe import LossSpec, Recipe
from digipath_ray.config.toml import (
    Tree,
    from_tree,
    merge,
    recipe_from_tree,
    to_tree,
)
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.card import read_card
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.resolve import resolve
from digipath_ray.overlap import dice
from digipath_ray.slide.info import SlideError
from digipath_ray.training.calibration import Histogram
from digipath_ray.training.class_dice import count_classes, dice_by_class
from digipath_ray.training.conclusion import conclude, keep_best, write_progress
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.fit import MemberFit
from digipath_ray.training.folds import Split
from digipath_ray.training.loss import LOG_FLOOR, segmentation_loss, segmentation_sums
from digipath_ray.training.reader import PatchReader
from digipath_ray.training.sampled import (
    annotation_rows,
    own_samples,
    sample_digest,
    sample_slide,
)
from digipath_ray.training.sampling import draw_epoch
from tests.annotated import FIT, SIDE, batch_of, write_annotated_slide
from tests.drawings import SLIDE, area, asap, feature, geojson, ring, square
from tests.runs import heatmaps, make_run, write_cohort

NAMES = ("rest", "tumor", "necrosis", "stroma")
SPEC = ClassSpec(
    names=NAMES,
    drawn=("Dead=necrosis", "Desmoplasia=stroma"),
    values=("tumor=1", "necrosis=4", "stroma=2", "stroma=3"),
    tumor=("tumor", "necrosis"),
)
CLASSES: Tree = {
    "classes": {
        "names": list(NAMES),
        "drawn": list(SPEC.drawn),
        "tumor": ["tumor", "necrosis"],
        "whole": ["tumor", "necrosis", "stroma"],
    }
}
WHOLE = Window(0, 0, 12, 12, l0_per_px_x=1.0, l0_per_px_y=1.0)


def drawn(path: Path, *squares: tuple[str, float, float, float]) -> Path:
    """Squares of a class as QuPath writes them: name, x, y, side."""
    return geojson(
        path,
        [
            feature(
                area(ring(x, y, side)),
                objectType="annotation",
                classification={"name": name},
            )
            for name, x, y, side in squares
        ],
    )


def layered(path: Path, spec: ClassSpec = SPEC, **told: Any) -> LayeredAnnotation:
    found = read_annotation(path, slide=SLIDE, spec=spec, **told)
    assert isinstance(found, LayeredAnnotation)
    return found


def painted(
    squares: list[tuple[int, float, float, float]], holes: tuple[float, ...] = ()
) -> NDArray[np.uint8]:
    """Squares painted in order of their class, then a hole."""
    out = np.zeros((12, 12), np.uint8)
    for number, x, y, side in sorted(squares):
        out[int(y) : int(y + side), int(x) : int(x + side)] = number
    if holes:
        x, y, side = holes
        out[int(y) : int(y + side), int(x) : int(x + side)] = 0
    return out


# Annotations


def test_names_are_classes_and_the_later_class_counts(tmp_path: Path) -> None:
    path = drawn(
        tmp_path,
        ("Desmoplasia", 0, 0, 6),
        ("Tumor", 3, 3, 6),
        ("dead", 5, 5, 3),
        ("STROMA", 9, 9, 3),
        ("rest", 0, 9, 2),
        ("Region*", 0, 0, 12),
    )
    found = layered(path)
    want = painted([(3, 0, 0, 6), (1, 3, 3, 6), (2, 5, 5, 3), (3, 9, 9, 3)])
    np.testing.assert_array_equal(found.classes(WHOLE), want)
    np.testing.assert_array_equal(found.tumor(WHOLE), np.isin(want, (1, 2)))
    assert not found.ignored(WHOLE).any()
    assert (found.tumor_map(1.0, 1.0)[:12, :12] >= found.tumor(WHOLE)).all()
    assert found.area_px == 36
    uses = {(u.name, u.meaning): u.area_px for u in found.account.classes}
    assert uses == {
        ("Tumor", "tumor"): 36,
        ("dead", "tumor"): 9,
        ("Desmoplasia", "class"): 36,
        ("STROMA", "class"): 9,
        ("rest", "skip"): None,
        ("Region*", "skip"): None,
    }


def test_holes_and_what_is_ignored_are_of_all_classes(tmp_path: Path) -> None:
    path = drawn(
        tmp_path,
        ("stroma", 0, 0, 6),
        ("tumor", 6, 6, 4),
        ("Hole", 2, 2, 6),
        ("Ignore*", 0, 10, 2),
    )
    found = layered(path)
    want = painted([(3, 0, 0, 6), (1, 6, 6, 4)], (2, 2, 6))
    np.testing.assert_array_equal(found.classes(WHOLE), want)
    ignored = np.zeros((12, 12), bool)
    ignored[10:, :2] = True
    np.testing.assert_array_equal(found.ignored(WHOLE), ignored)


def test_a_file_may_hold_other_classes_than_tumor(tmp_path: Path) -> None:
    found = layered(drawn(tmp_path, ("stroma", 0, 0, 6), ("Hole", 2, 2, 2)))
    assert found.area_px == 0
    assert (found.classes(WHOLE) == 3).sum() == 32
    assert not found.tumor(WHOLE).any()


@pytest.mark.parametrize(
    ("names", "spec", "message", "hint"),
    [
        (
            ("Fat", "tumor", "Fat", "Nerve"),
            SPEC,
            r"not known which class these are, by class: 'Fat' \(2\), 'Nerve' \(1\); "
            "the classes are rest, tumor, necrosis, stroma",
            "--class-drawn Dead=necrosis,Desmoplasia=stroma,Fat=CLASS,Nerve=CLASS,",
        ),
        # With two classes of tumor, neither is what is called by another name.
        (
            ("Carcinoma",),
            ClassSpec(names=NAMES, tumor=("tumor", "necrosis")),
            "which class these are, .*'Carcinoma'",
            "--class-drawn Carcinoma=CLASS",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_list_and_the_fix(
    tmp_path: Path, names: tuple[str, ...], spec: ClassSpec, message: str, hint: str
) -> None:
    path = drawn(tmp_path, *((name, 0, 0, 4) for name in names))
    with pytest.raises(SlideError, match=message) as refused:
        layered(path, spec)
    assert hint in str(refused.value.hint)
    told: Mapping[str, Any] = dict.fromkeys(names, "ignored")
    assert layered(path, spec, classes=told).ignored(WHOLE).any()


def test_known_names_of_tumor_are_its_class_where_one_is(tmp_path: Path) -> None:
    spec = ClassSpec(names=("rest", "cancer", "fat"), tumor=("cancer",))
    found = layered(drawn(tmp_path, ("Tumor", 0, 0, 4), ("fat", 4, 0, 4)), spec)
    want = painted([(1, 0, 0, 4), (2, 4, 0, 4)])
    np.testing.assert_array_equal(found.classes(WHOLE), want)


def test_two_classes_may_have_other_names(tmp_path: Path) -> None:
    spec = ClassSpec(
        names=("normal", "cancer"), drawn=("DCIS=cancer",), tumor=("cancer",)
    )
    path = drawn(tmp_path, ("dcis", 0, 0, 4), ("Normal", 4, 0, 4), ("Tumor", 8, 0, 4))
    found = layered(path, spec)
    want = painted([(1, 0, 0, 4), (1, 8, 0, 4)])
    np.testing.assert_array_equal(found.tumor(WHOLE), want == 1)
    told = {"names": list(spec.names), "tumor": ["cancer"]}
    recipe = recipe_from_tree(merge(FIT, {"classes": told}))
    assert recipe.members[0].classes == ("normal", "cancer")
    assert not recipe.classes.several, "batches and loss are those of two classes"
    assert recipe.classes.tumor_numbers == (1,)


def test_outlines_without_a_class_are_none(tmp_path: Path) -> None:
    path = geojson(tmp_path, [feature(area(ring(0, 0, 4)), objectType="annotation")])
    with pytest.raises(SlideError, match=r"'unclassified' \(1\)"):
        layered(path)
    spec = ClassSpec(names=NAMES, drawn=("unclassified=stroma",))
    assert (layered(path, spec).classes(WHOLE) == 3).sum() == 16


def test_asap_groups_are_classes(tmp_path: Path) -> None:
    path = asap(
        tmp_path / "a.xml", ("Dead", square(0, 0, 4)), ("stroma", square(4, 0, 4))
    )
    want = painted([(2, 0, 0, 4), (3, 4, 0, 4)])
    np.testing.assert_array_equal(layered(path).classes(WHOLE), want)


def test_values_of_a_label_image_are_classes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (SLIDE.height, SLIDE.width))
    path = tmp_path / "m.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    want = np.array([0, 1, 3, 3, 2])[values[:12, :12]]
    for trusted in (False, True):
        found = layered(path, trusted=trusted)
        np.testing.assert_array_equal(found.classes(WHOLE), want)
        np.testing.assert_array_equal(found.tumor(WHOLE), np.isin(want, (1, 2)))
    account = layered(path).account
    areas = {u.meaning: 0.0 for u in account.classes}
    for use in account.classes:
        areas[use.meaning] += use.area_px or 0
    assert areas["tumor"] == np.isin(values, (1, 4)).sum()
    assert areas["class"] == np.isin(values, (2, 3)).sum()


def test_values_of_no_class_are_refused(tmp_path: Path) -> None:
    values = np.zeros((SLIDE.height, SLIDE.width), np.uint8)
    values[2:5], values[6:8] = 1, 9
    path = tmp_path / "m.png"
    Image.fromarray(values).save(path)
    with pytest.raises(SlideError, match="values that are of no class, 9") as refused:
        layered(path)
    assert "--class-values CLASS=VALUE" in str(refused.value.hint)
    with pytest.raises(SlideError, match="no value is said to be a class") as refused:
        layered(path, ClassSpec(names=NAMES))
    assert "--class-values tumor=1" in str(refused.value.hint)
    Image.fromarray(values > 0).save(path)
    assert (layered(path).classes(WHOLE) == 1).any()
    with pytest.raises(SlideError, match="values that are of no class, 1"):
        layered(path, ClassSpec(names=NAMES, values=("stroma=2",)))


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"names": ["a"]}}, r"classes\.names = .*2 to 256 names"),
        ({"classes": {"names": ["a", "tumor", "A"]}}, "differ by more than case"),
        ({"classes": {"names": ["a", "b", "c"]}}, r"classes\.tumor = .*of b, c"),
        ({"classes": {"names": ["tumor", "b"]}}, r"classes\.tumor"),
        ({"classes": {"drawn": ["Fat=fat"]}}, r"classes\.drawn = .*needs \[classes\]"),
        ({"classes": {**CLASSES["classes"], "drawn": ["Fat=fat"]}}, "'Fat=fat': NAME="),
        ({"classes": {**CLASSES["classes"], "values": ["tumor=x"]}}, "CLASS=VALUE"),
        (
            {"classes": {**CLASSES["classes"], "values": ["tumor=1", "stroma=1"]}},
            "each once",
        ),
        (
            {**CLASSES, "annotations": {"classes": ["Fat=tumor"]}},
            r"say which class it is: NAME=CLASS in \[classes\] drawn",
        ),
        (
            {**CLASSES, "annotations": {"mask_above": 0.0}},
            r"say which value is which class",
        ),
        ({**CLASSES, "sampling": {"extra_annotations": "x"}}, "corrections know tumor"),
        ({**CLASSES, "fit": {"temperature": True}}, r"fit\.temperature = True: of sev"),
        (
            {**CLASSES, "members": [{**FIT["members"][0], "classes": [*NAMES[::-1]]}]},
            r"member a: classes = .*as \[classes\] says: leave it out",
        ),
        (
            {"members": [{**FIT["members"][0], "classes": ["a", "b", "tumor"]}]},
            r"a fit knows \('other', 'tumor'\) only",
        ),
    ],
)
def test_wrong_classes_are_refused(changes: Tree, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_from_tree(merge(FIT, changes))


def test_a_fit_without_classes_is_what_it_was(tmp_path: Path) -> None:
    recipe = recipe_from_tree(FIT)
    older = to_tree(recipe)
    del older["classes"], older["members"][0]["whole_classes"]
    assert difference(older, to_tree(recipe)) == []
    several = difference(older, to_tree(recipe_from_tree(merge(FIT, CLASSES))))
    assert any(line.startswith("classes.names: [] -> ['rest'") for line in several)
    assert from_tree({**FIT, **CLASSES}).members[0].classes == ("other", "tumor")


# Loss


def logits_of(n: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, 5, 4, generator=rng) * 3
    truth = torch.randint(classes, (n, 5, 4), generator=rng, dtype=torch.uint8)
    weight = torch.rand(n, 5, 4, generator=rng) < 0.8
    return logits, truth, weight


def papers_loss(logits: Tensor, truth: Tensor, weight: Tensor, s: LossSpec) -> Tensor:
    """The loss of two classes as it stood before there were more, line by line."""
    odds = logits[:, 1] - logits[:, 0]
    tumor = truth != 0
    weight = weight.to(odds).reshape(len(weight), *(weight.shape[1:] or (1, 1)))
    log = logsigmoid(torch.where(tumor, odds, -odds)).clamp(min=LOG_FLOOR)
    ps = torch.sigmoid(-odds), torch.sigmoid(odds)
    gs = (~tumor).to(odds), tumor.to(odds)
    parts = [
        weight * log,
        weight.expand_as(odds),
        *(weight * p * g for p, g in zip(ps, gs, strict=True)),
        *(weight * p * p for p in ps),
        *(weight * g for g in gs),
        *(weight * p for p in ps),
    ]
    sums = torch.stack([part.sum() for part in parts])
    cross_entropy = -sums[0] / torch.where(sums[1] > 0, sums[1], 1)
    p = sums[4:6] if s.squared else sums[8:10]
    other, dice_tumor = 1 - (2 * sums[2:4] + s.smoothing) / (
        p + sums[6:8] + s.smoothing
    )
    return (
        s.cross_entropy * cross_entropy
        + s.dice_other * other
        + s.dice_tumor * dice_tumor
    )


@pytest.mark.parametrize("spec", [LossSpec(), LossSpec(squared=False, dice_other=0.1)])
def test_of_two_classes_it_is_the_papers_to_the_bit(spec: LossSpec) -> None:
    for seed in range(5):
        given = logits_of(4, 2, seed=seed)
        results = []
        for loss_of in (
            lambda x, t, w: segmentation_loss(segmentation_sums(x, t, w), spec, (1,)),
            lambda x, t, w: papers_loss(x, t, w, spec),
        ):
            logits = given[0].clone().requires_grad_()
            loss = loss_of(logits, *given[1:])
            loss.backward()
            results.append((loss.detach(), logits.grad))
        (a, grad_a), (b, grad_b) = results
        assert torch.equal(a, b)
        assert torch.equal(grad_a, grad_b)


@pytest.mark.parametrize("spec", [LossSpec(), LossSpec(squared=False, smoothing=0.5)])
def test_of_several_classes_it_is_written_out_in_numpy(spec: LossSpec) -> None:
    logits, truth, weight = logits_of(3, 4)
    sums = segmentation_sums(logits.double(), truth, weight)
    found = segmentation_loss(sums, spec, (1, 2)).item()
    e = np.exp(logits.numpy().astype(np.float64))
    p = e / e.sum(1, keepdims=True)
    t, w = truth.numpy(), weight.numpy().astype(float)
    log = np.log(np.take_along_axis(p, t[:, None].astype(int), 1)[:, 0])
    want = spec.cross_entropy * -(w * log).sum() / w.sum()
    for c in range(4):
        g, pc = (t == c).astype(float), p[:, c]
        size = (w * pc**2).sum() if spec.squared else (w * pc).sum()
        numerator = 2 * (w * pc * g).sum() + spec.smoothing
        loss = 1 - numerator / (size + (w * g).sum() + spec.smoothing)
        want += (spec.dice_tumor if c in (1, 2) else spec.dice_other) / 2 * loss
    assert found == pytest.approx(want, rel=1e-9)


def test_a_third_class_that_is_nowhere_changes_little() -> None:
    """The general sums against those of two classes, where they must agree."""
    logits, truth, weight = logits_of(3, 2)
    never = torch.full_like(logits[:, :1], -1e4)
    two = segmentation_sums(logits.double(), truth, weight)
    three = segmentation_sums(torch.cat([logits, never], 1).double(), truth, weight)
    by_class = three[2:].reshape(4, 3)
    np.testing.assert_allclose(three[:2], two[:2])
    np.testing.assert_allclose(by_class[:, :2], two[2:].reshape(4, 2))
    assert (by_class[:, 2] == 0).all()


def test_a_sure_mistake_has_a_floor_and_excluded_pixels_no_part() -> None:
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 0] = 1e4
    truth = torch.tensor([[[2, 0]]])
    sums = segmentation_sums(logits, truth, torch.ones(1))
    assert sums[0] == LOG_FLOOR
    assert segmentation_sums(logits, truth, torch.zeros(1)).abs().sum() == 0


# Dice


def test_dice_of_each_class_is_counted_by_area() -> None:
    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 3, (2, 4, 6, 6))
    area = rng.random((4, 6, 6)) * (rng.random((4, 6, 6)) < 0.7)
    counts = count_classes(found, truth, area, 4)
    values = dice_by_class(counts, NAMES)
    for i, name in enumerate(NAMES[:3]):
        both = area[(found == i) & (truth == i)].sum()
        want = dice(both, area[found == i].sum(), area[truth == i].sum())
        assert values[f"validation_dice: {name}"] == pytest.approx(want)
    assert values["validation_dice: stroma"] == 1, "neither there nor found"


# A fit


MEMBER: Tree = {**FIT["members"][0], "options": {"width": 16, "classes": 4}}


def recipe_of(changes: Tree | None = None) -> Recipe:
    told = merge(FIT, CLASSES, {"members": [MEMBER]}, changes or {})
    return resolve_recipe(told)


def annotated_cohort(folder: Path) -> list[Any]:
    """Two slides with a disc: its left is tumor, its right necrosis, stroma below."""
    folder.mkdir()
    lines = ["slide_id,path,annotation,exhaustive,patient_id"]
    middle, half = SIDE / 2, 60.0
    for i in range(2):
        write_annotated_slide(folder / f"s{i}.tif", tumor=True, seed=i)
        shapes = {
            "tumor": [middle - half, middle - half, middle, middle + half],
            "Dead": [middle, middle - half, middle + half, middle + half],
            "stroma": [40.0, middle + half, SIDE - 40.0, middle + half + 40],
        }
        features = [
            feature(
                area(
                    [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]],
                ),
                objectType="annotation",
                classification={"name": name},
            )
            for name, (x0, y0, x1, y1) in shapes.items()
        ]
        tree = {"type": "FeatureCollection", "features": features}
        (folder / f"s{i}.geojson").write_text(json.dumps(tree))
        lines.append(f"s{i},s{i}.tif,s{i}.geojson,true,p{i}")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return read_cohort([folder / "cohort.csv"])


def class_at(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Of level-0 px, as the cohort is annotated."""
    middle, half = SIDE // 2, 60
    out = np.zeros(np.broadcast(x, y).shape, np.uint8)
    inside = (np.abs(y + 0.5 - middle) < half) & (np.abs(x + 0.5 - middle) < half)
    out[inside & (x < middle)] = 1
    out[inside & (x >= middle)] = 2
    below = (y >= middle + half) & (y < middle + half + 40)
    out[below & (x >= 40) & (x < SIDE - 40)] = 3
    return out


def test_batches_hold_the_class_of_each_pixel(tmp_path: Path) -> None:
    rows = annotated_cohort(tmp_path / "cohort")
    recipe = recipe_of({"augment": {"flip": False, "rotate": False}})
    directory = FitDirectory(tmp_path / "fit")
    directory.create()
    tables = {row.slide_id: sample_slide(row, recipe, directory) for row in rows}
    (told, _) = annotation_rows(rows, tables)
    assert told["tumor_mm2"] == pytest.approx(120 * 120 / 1e6)
    assert "class: 1 x stroma" in told["classes"]
    samples = own_samples(directory, ["s0", "s1"])
    draws = draw_epoch(
        samples, epoch=0, patches=24, batch_size=8, jitter_px=8.0, seed=0
    )
    reader = PatchReader({row.slide_id: row for row in rows}, recipe)
    batch = reader.read(draws)
    reader.close()
    assert set(np.unique(batch["classes"])) == {0, 1, 2, 3}
    for i, draw in enumerate(draws.to_pylist()):
        x, y = (
            np.clip(draw[a] + draw[f"d{a}"], 0, SIDE - 64) + np.arange(64) for a in "xy"
        )
        want = class_at(x[None, :], y[:, None])
        np.testing.assert_array_equal(batch["classes"][i], want)
        np.testing.assert_array_equal(batch["tumor"][i], np.isin(want, (1, 2)))
        assert (draw["tumor"] > 0) == (i % 2 == 0), "as many with tumor as without"


def test_turned_patches_keep_their_classes(tmp_path: Path) -> None:
    """Colors say where the disc is, whichever way a patch is turned."""
    rows = annotated_cohort(tmp_path / "cohort")
    still = dict.fromkeys(("blur_px", "brightness", "contrast", "saturation", "hue"), 0)
    recipe = recipe_of({"augment": {k: float(v) for k, v in still.items()}})
    directory = FitDirectory(tmp_path / "fit")
    directory.create()
    for row in rows:
        sample_slide(row, recipe, directory)
    samples = own_samples(directory, ["s0", "s1"])
    draws = draw_epoch(
        samples, epoch=1, patches=16, batch_size=8, jitter_px=8.0, seed=0
    )
    reader = PatchReader({row.slide_id: row for row in rows}, recipe)
    turned, plain = (
        reader.read(d)
        for d in (draws, draws.set_column(7, draws.field(7), [[-1] * len(draws)]))
    )
    reader.close()
    changed = 0
    for i in range(len(draws)):
        ways = [
            (np.rot90(plain["pixels"][i][:, ::step], k), k, step)
            for k in range(4)
            for step in (1, -1)
        ]
        (found,) = [w for w in ways if np.array_equal(w[0], turned["pixels"][i])]
        want = np.rot90(plain["classes"][i][:, :: found[2]], found[1])
        np.testing.assert_array_equal(turned["classes"][i], want)
        changed += found[1:] != (0, 1)
    assert changed > 4


def colored_batch(n: int = 8, *, seed: int = 0) -> dict[str, Any]:
    """Patches whose red says the class."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.repeat(rng.integers(0, 4, (n, 2, 2)), 16, 1), 16, 2)
    pixels = np.full((n, 32, 32, 3), 128.0)
    pixels[..., 0] = np.array([20, 90, 160, 230])[classes]
    pixels += rng.normal(0, 6, pixels.shape)
    batch = batch_of(
        np.isin(classes, (1, 2)), pixels=pixels.clip(0, 255).astype(np.uint8)
    )
    return {**batch, "classes": classes.astype(np.uint8)}


def test_a_fit_tells_classes_apart_and_a_run_keeps_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = recipe_of({"fit": {"learning_rates": [0.01]}})
    fit = MemberFit(recipe.members[0], recipe, torch.device("cpu"))
    directory = FitDirectory(tmp_path / "fit")
    directory.create()
    batches = [colored_batch(seed=seed) for seed in range(30)]
    for _ in range(2):
        row = fit.fit_epoch(batches)
        row.pop("errors")
        validation, histogram = fit.validate([colored_batch(seed=99)])
        if fit.end_epoch({**row, **validation}):
            keep_best(directory, fit)
        write_progress(directory, fit)
    by_class = {k: v for k, v in validation.items() if k.startswith("validation_dice:")}
    assert list(by_class) == [f"validation_dice: {name}" for name in NAMES]
    assert min(by_class.values()) > 0.8
    curves = directory.curve_table("a").read_text().splitlines()
    assert "validation_dice: necrosis" in curves[0]
    check_odds(fit, histogram)
    split = Split(fit=("s0",), validation=("s1",))
    directory.write_arrow(directory.samples("s0"), own_samples(directory, []))
    conclude(directory, fit, histogram, split, [])
    card = read_card(directory.weights("a"))
    assert (card.classes, card.tumor_classes) == (NAMES, ("tumor", "necrosis"))
    assert card.whole_classes == ("tumor", "necrosis", "stroma")
    kept = fit.history[fit.best_epoch]
    assert card.training["validation"]["dice_by_class"] == {
        name: kept[f"validation_dice: {name}"] for name in NAMES
    }
    told = {"ensemble": {"keep_classes": True}}
    shared = {k: FIT[k] for k in ("grid", "tissue")}
    config = resolve({**shared, **told}, weights=directory.root, allow_partial=True)
    assert config.class_channels == ("whole", *(f"class:{name}" for name in NAMES))
    run = make_run(tmp_path / "run", write_cohort(tmp_path / "slides", 1), config)
    (heatmap,) = heatmaps(run).values()
    four = heatmap.data[-4:][:, heatmap.covered]
    np.testing.assert_allclose(four.sum(0), 1, atol=1e-5)
    whole = heatmap.channel("whole")
    assert whole is not None
    np.testing.assert_allclose(whole[heatmap.covered], four[1:].sum(0), atol=1e-5)


def check_odds(fit: MemberFit, histogram: Histogram) -> None:
    """Tumor's odds of a batch are those of the posterior that a run computes."""
    batch = colored_batch(seed=99)
    with torch.inference_mode():
        logits = fit._logits(fit.network, batch)
        odds = fit._odds(logits)
        says = Answer(channels=4, tumor=(1, 2))
        posterior = says.posterior(logits, (32, 32))
    np.testing.assert_allclose(odds.sigmoid(), posterior, atol=1e-5)
    assert histogram.total == pytest.approx(batch["area_mm2"].sum())


def test_samples_are_drawn_anew_with_other_classes(tmp_path: Path) -> None:
    rows = annotated_cohort(tmp_path / "cohort")
    digests = {
        sample_digest(rows[0], recipe)
        for recipe in (
            recipe_from_tree(FIT),
            recipe_of(),
            recipe_of({"classes": {"drawn": ["Dead=stroma"]}}),
        )
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"drawn": ("Stroma=tumor",)}, "stroma is a class itself"),
        (
            {"names": ("other", "tumor", "Dr\u00fcse", "Dru\u0308se")},
            "how an accent is stored",
        ),
    ],
)
def test_a_name_that_means_two_classes_is_refused(says, message):
    with pytest.raises(ValueError, match=message):
        ClassSpec(**{"names": ("other", "tumor", "stroma"), **says})
    ClassSpec(names=("other", "tumor", "stroma"), drawn=("Stroma=stroma",))
