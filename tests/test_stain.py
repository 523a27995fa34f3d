"""Stains of a slide: their estimate, the map onto others, and runs that use it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from digipath_ray.cli.app import run_app
from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.difference import difference
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import (
    Tree,
    from_tree,
    merge,
    recipe_from_tree,
    to_tree,
)
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.networks.notes import stain_notes
from digipath_ray.networks.predict import EnsemblePredictor, load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.stains import normalize_on_device
from digipath_ray.patches import share_blocks
from digipath_ray.pipeline.prepare import find_slide_tissue
from digipath_ray.pipeline.segment import segment_slide
from digipath_ray.pipeline.stains import FLAG, find_stains
from digipath_ray.report.attention import flag_reason
from digipath_ray.report.methods import write_methods
from digipath_ray.run.patch_table import prepare_digest, read_prepared
from digipath_ray.run.provenance import settings_digest
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.slide.open import open_slide
from digipath_ray.stain import estimate, fields
from digipath_ray.stain.estimate import (
    METHODS,
    StainError,
    StainEstimate,
    StainMethod,
    angle_between,
    estimate_stains,
    median_estimate,
)
from digipath_ray.stain.normalize import (
    MACENKO_TARGET,
    check_alike,
    map_stains,
    normalize_pixels,
)
from digipath_ray.storage.files import json_digest
from digipath_ray.tissue.find import Tissue
from digipath_ray.tissue.mask import Mask
from digipath_ray.training.stains import STAINS, note_stains, reference_stains
from digipath_ray.verify.repeat import repeat_chunks
from tests.members import card_of, write_tiny
from tests.records import record_of
from tests.runs import (
    before_stains_and_artifacts,
    heatmaps,
    make_run,
    small_config,
    write_slide,
)
from tests.slides import noise
from tests.stained import (
    DAB,
    EOSIN,
    HDAB,
    HE,
    HEMATOXYLIN,
    amounts,
    patch,
    turned,
    write_stained,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
REINHARD = StainEstimate(
    method="reinhard", values=(-0.42, -0.11, 0.032, 0.184, 0.055, 0.0108, 0.2)
)
REFERENCES: dict[StainMethod, StainEstimate] = {
    "macenko": MACENKO_TARGET,
    "reinhard": REINHARD,
}


def flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, 3)


def found(pixels: np.ndarray, method: StainMethod = "macenko") -> StainEstimate:
    return estimate_stains(flat(pixels), method)


# The estimate


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stains", [HE, HDAB], ids=["eosin", "DAB"])
def test_drawn_stains_are_found_again(stains: np.ndarray, seed: int) -> None:
    got = found(patch(stains, seed=seed))
    for name, true in zip(got.vectors, stains, strict=True):
        assert angle_between(name, true) < 2
    drawn = np.percentile(amounts(160, 160, seed=seed), 99, axis=(0, 1))
    np.testing.assert_allclose(got.strengths, drawn, rtol=0.04)
    assert got.is_brown == (stains is HDAB)


def test_reinhard_is_mean_and_deviation() -> None:
    pixels = flat(patch())
    light = (pixels[estimate.is_stained(pixels)].astype(float) + 1) / 256
    lms = (
        light
        @ np.array(
            [
                [0.3811, 0.5783, 0.0402],
                [0.1967, 0.7244, 0.0782],
                [0.0241, 0.1288, 0.8444],
            ]
        ).T
    )
    r, g, b = np.log10(lms).T
    lab = [(r + g + b) / 3**0.5, (r + g - 2 * b) / 6**0.5, (r - g) / 2**0.5]
    want = [*np.mean(lab, axis=1), *np.std(lab, axis=1)]
    got = found(pixels, "reinhard").values
    np.testing.assert_allclose(got[:6], want, atol=2e-5)
    _, green, blue = found(pixels).vectors[1]
    assert got[6] == pytest.approx(blue / green, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_glass_ink_blood_and_dust_have_no_part(method: StainMethod) -> None:
    pixels = flat(patch())
    others = [(245, 243, 246), (12, 11, 14), (60, 62, 60), (190, 20, 25), (255,) * 3]
    more = np.concatenate([pixels, *(np.full((9000, 3), c, np.uint8) for c in others)])
    assert estimate_stains(more, method) == estimate_stains(pixels, method)


def test_an_estimate_is_its_text() -> None:
    got = found(patch())
    assert StainEstimate.from_text(got.to_text()) == got
    assert json.loads(got.to_text())[0] == "macenko"


ONE_STAIN = np.rint(
    256 * np.exp(-amounts(160, 160)[..., :1] * HEMATOXYLIN).clip(0, 1) - 1
).clip(0, 255)


@pytest.mark.parametrize(
    ("pixels", "method", "why"),
    [
        (np.full((200, 200, 3), 250), "macenko", "only 0 of 40000 pixels"),
        (patch(side=40), "reinhard", "only 1600 of 1600 pixels"),
        (np.full((200, 200, 3), (200, 120, 160)), "macenko", "one color: 0 degrees"),
        (np.full((200, 200, 3), (200, 120, 160)), "reinhard", "one color"),
        (np.maximum(ONE_STAIN, 5), "macenko", "one color: [0-9] degrees"),
        (noise(200, 200), "macenko", "no more than noise"),
        (patch(np.eye(3)[:2]), "reinhard", "no two stains"),
    ],
)
def test_what_shows_no_two_stains_is_refused(
    pixels: np.ndarray, method: StainMethod, why: str
) -> None:
    with pytest.raises(StainError, match=why):
        found(pixels.astype(np.uint8), method)


@pytest.mark.parametrize(
    ("method", "values", "why"),
    [
        ("vahadane", (1.0,) * 8, "choose from macenko, reinhard"),
        ("macenko", (1.0,) * 7, "8 numbers"),
        ("reinhard", MACENKO_TARGET.values, "7 numbers"),
        ("macenko", (0.65, 0.7, 0.29, 0.07, 0.99, 0.11, 1.0, 0.0), "positive"),
        ("macenko", (*HEMATOXYLIN, *HEMATOXYLIN, 1.0, 1.0), "one stain, twice"),
        ("macenko", (*HEMATOXYLIN, *EOSIN, 1.0, 1e300), "8 numbers up to 100"),
        ("macenko", (1.0, 1.0, 1.0, 0.07, 0.99, 0.11, 1.0, 1.0), "length 1"),
        ("reinhard", (0.0, 0.0, 0.0, 0.1, float("nan"), 0.1, 1.0), "7 numbers"),
    ],
)
def test_numbers_that_are_no_estimate_are_refused(
    method: Any, values: tuple[float, ...], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        StainEstimate(method=method, values=values)


def test_the_median_of_slides() -> None:
    each = [found(patch(seed=s, scale=c)) for s, c in ((0, 0.8), (1, 1.0), (2, 1.3))]
    middle = median_estimate(each)
    np.testing.assert_allclose(middle.strengths, each[1].strengths, rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(middle.vectors, axis=1), 1, atol=1e-5)


# The map


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_of_the_references_stains_stays_as_it_is(method: StainMethod) -> None:
    pixels = noise(300, 200)
    own = found(patch(), method)
    np.testing.assert_array_equal(
        normalize_pixels(pixels, map_stains(own, own)), pixels
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_a_restained_slide_becomes_the_reference(
    method: StainMethod, scale: float
) -> None:
    other = np.stack([turned(HEMATOXYLIN, 6, EOSIN), turned(EOSIN, 5, HEMATOXYLIN)])
    reference, restained = patch(), patch(other, scale=scale)
    by = map_stains(found(restained, method), found(reference, method))
    got = normalize_pixels(restained, by)
    before = np.abs(restained.astype(int) - reference).mean()
    after = np.abs(got.astype(int) - reference).mean()
    assert before > 12
    assert after < (3 if method == "macenko" else 0.4 * before)
    if method == "reinhard":
        back, want = (found(p, method).moments for p in (got, reference))
        np.testing.assert_allclose(back, want, atol=0.02)


def test_what_is_of_neither_stain_is_kept() -> None:
    """A green pixel, along the normal of the plane, keeps its distance from it."""
    own = found(patch())
    frames = [np.cross(*e.vectors) for e in (own, MACENKO_TARGET)]
    rest = [n / np.linalg.norm(n) for n in frames]
    by = map_stains(own, MACENKO_TARGET)
    np.testing.assert_allclose(by.turn @ rest[0], rest[1], atol=1e-9)
    for i in range(2):
        factor = MACENKO_TARGET.strengths[i] / own.strengths[i]
        want = factor * MACENKO_TARGET.vectors[i]
        np.testing.assert_allclose(by.turn @ own.vectors[i], want, atol=1e-9)


def test_white_glass_stays_white() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    by = map_stains(found(patch()), MACENKO_TARGET)
    np.testing.assert_array_equal(normalize_pixels(white, by), white)


@pytest.mark.parametrize("method", METHODS)
def test_the_device_does_what_numpy_does(
    method: StainMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digipath_ray.networks.stains.PIXELS_AT_ONCE", 5000)
    pixels = np.concatenate([noise(48, 48 * 6), patch(side=48)]).reshape(7, 48, 48, 3)
    by = map_stains(found(patch(), method), REFERENCES[method])
    want = normalize_pixels(pixels, by)
    got = normalize_on_device(torch.from_numpy(pixels), by)
    assert got.dtype == torch.uint8
    gap = np.abs(got.numpy().astype(int) - want)
    assert gap.max() <= 1  # where a value lies within rounding of a half
    assert (gap > 0).mean() < 1e-3
    assert (
        len(normalize_on_device(torch.zeros((0, 8, 8, 3), dtype=torch.uint8), by)) == 0
    )


@pytest.mark.parametrize(
    ("one", "reference", "why"),
    [
        (found(patch(HDAB)), found(patch()), r"it is brown \(DAB\), the reference red"),
        (found(patch()), found(patch(HDAB)), "it is red"),
        (found(patch(scale=0.45)), found(patch(scale=2.5)), "scaled by 5"),
        (found(patch(HDAB), "reinhard"), found(patch(), "reinhard"), r"brown \(DAB\)"),
        (REINHARD, replace(REINHARD, values=(-0.4, 0.1, *REINHARD.values[2:])), "mean"),
    ],
)
def test_stains_of_another_kind_are_not_mapped(
    one: StainEstimate, reference: StainEstimate, why: str
) -> None:
    with pytest.raises(StainError, match=why):
        map_stains(one, reference)
    with pytest.raises(ValueError, match="cannot be mapped"):
        map_stains(found(patch()), REINHARD)


def test_a_stain_far_from_the_references_is_not_mapped() -> None:
    far = StainEstimate(
        method="macenko",
        values=(*turned(HEMATOXYLIN, 45, np.eye(3)[0]), *EOSIN, 1.0, 1.0),
    )
    with pytest.raises(StainError, match=r"hematoxylin is 4\d degrees"):
        check_alike(far, found(patch()))


# The pixels that it is estimated from


def tissue_of(array: np.ndarray, ink: np.ndarray | None = None) -> Tissue:
    """Masks alone: nothing else is looked at."""
    masks = [
        Mask(array=a, mpp_x=8.0, mpp_y=8.0)
        for a in (array, np.zeros_like(array) if ink is None else ink)
    ]
    return Tissue(
        mask=masks[0], sampling=masks[0], ink=masks[1], quality=cast(Any, None)
    )


def test_fields_lie_in_tissue_and_not_in_ink() -> None:
    rng = np.random.default_rng(0)
    tissue = np.zeros((150, 200), bool)
    tissue[20:120, 30:180] = True
    ink = np.zeros_like(tissue)
    ink[60:70, 30:100] = True
    places = fields.choose_fields(tissue_of(tissue, ink), width=1600, height=1200)
    assert 10 < len(places) <= fields.FIELDS
    assert len({tuple(p) for p in places.tolist()}) == len(places)
    for top, bottom, left, right in places.tolist():
        box = np.s_[top // 8 : -(-bottom // 8), left // 8 : -(-right // 8)]
        assert tissue[box].mean() >= 0.5
        assert not ink[box].any()
    again = fields.choose_fields(tissue_of(tissue, ink), width=1600, height=1200)
    np.testing.assert_array_equal(places, again)
    everywhere = tissue_of(np.ones((500, 500), bool))
    assert len(fields.choose_fields(everywhere, width=9000, height=9000)) == 64
    specks = tissue_of(rng.random((150, 200)) < 0.05)
    assert len(fields.choose_fields(specks, width=1600, height=1200)) > 0
    nothing = tissue_of(np.zeros((150, 200), bool))
    assert len(fields.choose_fields(nothing, width=1600, height=1200)) == 0


def test_folds_have_no_part() -> None:
    flat_fields = [patch(seed=s, side=64) for s in range(12)]
    folded = np.square((flat_fields[0].astype(float) + 1) / 256) * 256 - 1
    with_fold = [*flat_fields, np.rint(folded.clip(0)).astype(np.uint8)]
    np.testing.assert_array_equal(
        fields.without_folds(with_fold), fields.without_folds(flat_fields)
    )
    # Two of three fields are no fold: that is how the tissue is.
    dense = [flat_fields[0], *with_fold[-1:] * 2]
    assert len(fields.without_folds(dense)) > 2.5 * 64**2
    with pytest.raises(StainError, match="no stained tissue"):
        fields.without_folds([])


@pytest.mark.skipif(not (DATA / "glas").exists(), reason="no real images here")
def test_real_tissue() -> None:
    each: dict[StainMethod, list[StainEstimate]] = {m: [] for m in METHODS}
    paths = sorted((DATA / "glas" / "images").iterdir())[::12]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB").reduce(3))  # 1.9 um/px
        try:
            for method in METHODS:
                each[method].append(found(pixels, method))
        except StainError:
            continue
    assert len(each["macenko"]) >= 0.8 * len(paths)
    assert not any(e.is_brown for e in each["macenko"])
    for many in each.values():
        for one in many:
            check_alike(one, median_estimate(many))


@pytest.mark.skipif(not (DATA / "wsi").exists(), reason="no real slide here")
def test_a_real_slide() -> None:
    with open_slide(DATA / "wsi" / "CMU-1-Small-Region.svs") as slide:
        _, tissue = find_slide_tissue(slide, small_config())
        got = fields.slide_stains(slide, tissue, "macenko")
        again = fields.slide_stains(slide, tissue, "macenko")
    assert got == again
    assert angle_between(got.vectors[0], HEMATOXYLIN) < 12
    assert not got.is_brown
    map_stains(got, MACENKO_TARGET)


# Runs

VALUES = {"macenko": (*MACENKO_TARGET.values,), "reinhard": (*REINHARD.values,)}


def stained_config(method: str = "macenko", changes: Tree | None = None) -> RunConfig:
    """Two tiny networks, each with a reference of its own."""
    first = VALUES[method]
    second = (*first[:5], first[5] * 1.01, *(v * 0.8 for v in first[6:]))
    members = [
        {**m, "stain_reference": list(values)}
        for m, values in zip(small_config().members, (first, second), strict=True)
        for m in [{"name": m.name, "architecture": m.architecture, "seed": m.seed}]
    ]
    tree = {"slide": {"stain": method}, "members": members}
    return small_config(merge(tree, changes or {}))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[SlideRow]:
    """A slide of two stains, one of a single color, and one of hematoxylin and DAB."""
    folder = tmp_path_factory.mktemp("cohort")
    write_stained(folder / "he.tif")
    write_stained(folder / "ihc.tif", HDAB, seed=1)
    write_slide(folder / "plain.tif")
    return read_cohort([folder])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_one_of_slides_that_were_normalized_before(
    cohort: list[SlideRow], method: str, tmp_path: Path
) -> None:
    """Each member's map is that of a run of the normalized slide, without stains."""
    # Mirrored at the edge: Reinhard's method turns white into another color, too.
    slide = {"stain": method, "edge": "reflect"}
    config = stained_config(
        method, {"ensemble": {"keep_members": True}, "slide": slide}
    )
    run = make_run(tmp_path / "run", cohort, config)
    done = run.read_done()
    he = done["he"].slide
    own = he.normalized_from
    assert own is not None
    assert (he.qc, he.stain, he.stain_note) == (("little tissue",), method, None)
    mask = str(run.mask("he"))
    pixels = tifffile.imread(cohort[0].path, key=0)
    plain = to_tree(config)
    del plain["slide"]["stain"]
    for member in config.members:
        reference = StainEstimate(
            method=own.method, values=member.stain_reference or ()
        )
        restained = normalize_pixels(pixels, map_stains(own, reference))
        path = tmp_path / f"{member.name}.png"
        Image.fromarray(restained).save(path)
        alone = segment_slide(
            path,
            from_tree(plain),
            load_ensemble(from_tree(plain)),
            slide_mpp=1.0,
            mask=mask,
        )
        got = read_heatmap(run.heatmap("he"))
        name = f"member:{member.name}"
        a, b = (h.data[h.channels.index(name)] for h in (got, alone))
        # Where the device rounds another way a pixel is one level off.
        np.testing.assert_allclose(a, b, atol=2e-3)
        assert np.abs(a - b)[got.covered].mean() < 1e-4
    whole = segment_slide(cohort[0].path, config, load_ensemble(config))
    np.testing.assert_array_equal(whole.data, read_heatmap(run.heatmap("he")).data)
    # The others are left as they are, and flagged.
    unchanged = make_run(tmp_path / "plain", cohort, from_tree(plain))
    for slide_id in ("ihc", "plain"):
        record = done[slide_id].slide
        assert FLAG in record.qc
        assert record.normalized_from is None
        assert record.stain_note is not None
        assert flag_reason(FLAG, record.to_row()).text.endswith(f"{record.stain_note}.")
        one, two = (r.heatmap(slide_id).read_bytes() for r in (run, unchanged))
        data = [heatmaps(r)[slide_id].data for r in (run, unchanged)]
        np.testing.assert_array_equal(*data)
        assert one != two, "the settings are noted in the file"
    if method == "macenko":
        assert "brown (DAB)" in str(done["ihc"].slide.stain_note)
        assert "neither of its two colors is hem" in str(done["plain"].slide.stain_note)
    # Predicted once more, it is the same; the record comes back from its file.
    for record in done.values():
        assert DoneRecord.from_text(record.to_text()) == record
    again = list(repeat_chunks(run, [done["he"]], config, 2, seed=0, device="cpu"))
    assert len(again) == 2
    assert all(not isinstance(r, str) and r.largest < 1e-5 for r in again)


def test_without_the_option_nothing_is_read() -> None:
    nothing = cast(Any, None)
    assert find_stains(nothing, nothing, small_config()) is None


def test_immunohistochemistry_is_tissue(cohort: list[SlideRow]) -> None:
    config = stained_config()
    with open_slide(cohort[1].path) as slide:
        _, tissue = find_slide_tissue(slide, config)
        stains = find_stains(slide, tissue, config)
        alike = replace(
            config,
            members=tuple(
                replace(m, stain_reference=found(patch(HDAB, scale=1.2)).values)
                for m in config.members
            ),
        )
        to_ihc = find_stains(slide, tissue, alike)
    assert tissue.mask.area_mm2 == pytest.approx(152 * 112 / 1e6, rel=0.2)
    assert stains is not None
    assert stains.found is not None
    assert stains.found.is_brown
    assert angle_between(stains.found.vectors[1], DAB) < 3
    assert stains.usable is None
    assert to_ihc is not None
    assert to_ihc.usable == stains.found


def test_members_of_one_reference_share_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(pixels: torch.Tensor, by: Any) -> torch.Tensor:
        calls.append(by)
        return normalize_on_device(pixels, by)

    monkeypatch.setattr(
        "digipath_ray.networks.chunk_pixels.normalize_on_device", counted
    )
    cells = np.array([[0, 0], [0, 1], [1, 0]], np.int32)
    blocks, index = share_blocks(cells, 2)
    pixels = np.tile(patch(side=32), (len(blocks), 1, 1, 1))
    config = stained_config()
    EnsemblePredictor(config.members, config).predict(
        pixels, index, stain=found(patch())
    )
    assert len(calls) == 2
    same = replace(
        config, members=tuple(replace(m, stain_reference=None) for m in config.members)
    )
    predictor = EnsemblePredictor(same.members, same)
    predictor.predict(pixels, index, stain=found(patch()))
    assert len(calls) == 3
    predictor.predict(pixels, index)
    assert len(calls) == 3


# Settings


def weights_with(folder: Path, stain: Tree) -> Path:
    path = write_tiny(folder)
    card = path.with_suffix(".json")
    values = json.loads(card.read_text())
    card.write_text(json.dumps({**values, "stain": stain}))
    return folder


def test_the_reference_comes_from_the_card(tmp_path: Path) -> None:
    own = found(patch())
    folder = weights_with(tmp_path / "own", {"macenko": list(own.values)})
    config = resolve({"slide": {"stain": "macenko"}}, weights=folder)
    assert config.members[0].stain_reference == own.values
    assert stain_notes(config) == []
    assert "training slides (median)" in " ".join(
        write_methods(config, {}, precision=None)
    )
    with pytest.raises(ValueError, match="states no reference stains"):
        resolve({"slide": {"stain": "reinhard"}}, weights=folder)
    bare = resolve({"slide": {"stain": "macenko"}}, weights=weights_with(tmp_path, {}))
    assert bare.members[0].stain_reference == MACENKO_TARGET.values
    assert "Macenko's published" in stain_notes(bare)[0]
    assert "Macenko's published reference; slides whose" in " ".join(
        write_methods(bare, {}, precision=None)
    )
    # run.toml holds it, and gives the same config again.
    assert resolve(to_tree(bare), force=True) == bare
    off = resolve({}, weights=folder)
    assert off.members[0].stain_reference is None
    assert "normalized" not in " ".join(write_methods(off, {}, precision=None))


def test_references_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = weights_with(tmp_path, {})
    members = [{"weights": str(folder / "tiny.safetensors"), "stain_reference": [1.0]}]
    with pytest.raises(ValueError, match=r"member tiny: macenko = .*8 numbers"):
        resolve({"slide": {"stain": "macenko"}, "members": members})
    with pytest.raises(ValueError, match=r"slide\.stain = 'vahadane': choose from"):
        from_tree({"slide": {"stain": "vahadane"}})


@pytest.mark.parametrize(
    "stain",
    [
        {"macenko": [1, 2]},
        {"vahadane": [1.0] * 8},
        {"macenko": "none"},
        {"reinhard": [0, 0, 0, 1, 1, 1, None]},
        [1, 2],
    ],
)
def test_a_card_with_other_stains_is_refused(tmp_path: Path, stain: Any) -> None:
    folder = weights_with(tmp_path, stain)
    with pytest.raises(ValueError, match=r"tiny\.json: stain = .*must be"):
        resolve({}, weights=folder)


def test_a_file_of_settings_fits_an_ensemble_and_runs_it() -> None:
    tree: Tree = {"slide": {"stain": "macenko", "edge": "reflect"}}
    assert recipe_from_tree(tree).slide.edge == "reflect"
    assert "stain" not in to_tree(recipe_from_tree(tree))["slide"]
    assert from_tree(tree).slide.stain == "macenko"


def test_a_run_goes_on_with_the_stains_that_it_was_started_with() -> None:
    plain, stained = small_config(), stained_config()
    older = before_stains_and_artifacts(plain)
    assert difference(older, to_tree(plain)) == []
    assert "slide.stain: none -> macenko" in difference(older, to_tree(stained))
    kept = {k: older[k] for k in ("slide", "tissue", "grid")}
    assert prepare_digest(plain) == json_digest(kept)
    kept = {k: v for k, v in older.items() if k not in ("compute", "outcome")}
    assert settings_digest(plain) == json_digest(kept)
    digests = {prepare_digest(c) for c in (plain, stained, stained_config("reinhard"))}
    assert len(digests) == 3
    other = replace(
        stained,
        members=(replace(stained.members[0], stain_reference=None), stained.members[1]),
    )
    assert prepare_digest(other) != prepare_digest(stained)
    assert settings_digest(stained) != settings_digest(plain)


def test_a_prepared_slide_is_taken_up_with_its_stains(
    cohort: list[SlideRow], tmp_path: Path
) -> None:
    from digipath_ray.pipeline.prepare import prepare_slide
    from digipath_ray.run.directory import RunDirectory

    run, config = RunDirectory(tmp_path / "run"), stained_config()
    run.create()
    record = prepare_slide(cohort[0], config, run)
    assert record.normalized_from is not None
    assert read_prepared(run, cohort[0], config) == record
    assert read_prepared(run, cohort[0], stained_config("reinhard")) is None


def test_a_record_with_other_stains_is_refused() -> None:
    row = record_of().to_row()
    assert (row["stain"], row["stain_values"], row["stain_note"]) == (None, None, None)
    assert SlideRecord.from_row(row).normalized_from is None
    with pytest.raises(ValueError, match="8 numbers"):
        SlideRecord.from_row({**row, "stain": "macenko", "stain_values": [1.0, 2.0]})


# The reference of a fit


def test_the_card_of_a_fit_holds_the_median_of_its_slides(
    cohort: list[SlideRow],
) -> None:
    import pyarrow as pa

    config, tables = small_config(), {}
    for row in cohort:
        with open_slide(row.path) as slide:
            _, tissue = find_slide_tissue(slide, config)
            note = note_stains(slide, tissue)
        tables[row.slide_id] = pa.table({"x": [1]}).replace_schema_metadata(note)
    tables["older"] = pa.table({"x": [1]})
    told = json.loads(tables["plain"].schema.metadata[STAINS])
    assert told == {}, "no hematoxylin"
    got = reference_stains(tables, ["he", "plain", "older"])
    he = json.loads(tables["he"].schema.metadata[STAINS])
    np.testing.assert_allclose(got["macenko"], he["macenko"], atol=1e-5)
    assert reference_stains(tables, ["older"]) == {}
    card = card_of(small_config().members[0], stain=got)
    assert card.stain == got


# What is said


def test_info_says_what_was_found(
    cohort: list[SlideRow], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [row.path for row in cohort]
    options = ["--mpp", "1", "--stain", "macenko", "--min-tissue-mm2", "0.001"]
    assert run_app(["info", *paths, *options]) == 0
    said = capsys.readouterr().out
    assert "stains     hematoxylin 0.6" in said
    assert "brown stain 0.2" in said
    assert "left as they are: neither of its two colors" in said
    assert FLAG in said
    assert run_app(["info", paths[0], *options[:2], *options[4:]]) == 0
    assert "stains" not in capsys.readouterr().out


def test_hematoxylin_comes_first():
    h, e = MACENKO_TARGET.values[:3], MACENKO_TARGET.values[3:6]
    with pytest.raises(ValueError, match="exchange the first three"):
        StainEstimate(method="macenko", values=(*e, *h, 1.0, 2.0))
