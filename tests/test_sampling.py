import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from digipath_ray.config.recipe import SamplingSpec
from digipath_ray.geometry import model_frame
from digipath_ray.schema import SAMPLES
from digipath_ray.tissue.mask import Mask
from digipath_ray.training.sampling import (
    draw_epoch,
    draw_samples,
    draw_validation,
    epoch_length,
    find_candidates,
    is_tumor,
    kept_slides,
    share_of,
)

FRAME = model_frame(level_downsamples=(1.0,), mpp_x=0.5, mpp_y=0.5, mpp=0.5)
SPEC = SamplingSpec(fit_patch_px=32, tumor_per_slide=20, normal_per_slide=30)


def samples(tumor: int, normal: int, *, slide_id: str = "s") -> pa.Table:
    """So many samples of both kinds, x telling them apart."""
    n = tumor + normal
    columns = {
        "slide_id": [slide_id] * n,
        "x": range(n),
        "y": [0] * n,
        "tumor": [0.5] * tumor + [0.0] * normal,
        "area_mm2": [1.0] * n,
    }
    return pa.table(columns, schema=SAMPLES)


def epoch(table: pa.Table, number: int = 0, *, patches: int = 64, jitter: float = 128):
    return draw_epoch(
        table, epoch=number, patches=patches, batch_size=16, jitter_px=jitter, seed=1
    )


def lay_slide(*, normal: bool = True) -> tuple[pa.Table, Mask]:
    """A slide of 100 x 100 mask px of 4 um: its left fifth tumor, its right glass."""
    tissue = np.ones((100, 100), bool)
    tissue[:, 80:] = False
    mask = Mask(array=tissue, mpp_x=4.0, mpp_y=4.0)
    tumor = np.zeros_like(tissue)
    tumor[:, :20] = True

    def share(x: int, y: int) -> float:  # 8 model px per mask px: tumor ends at 160
        return float(np.clip(160 - x, 0, 32)) / 32

    table = draw_samples(
        "s",
        find_candidates(mask, tumor, normal=normal),
        mask,
        FRAME,
        share,
        spec=SPEC,
        rng=np.random.default_rng(0),
    )
    return table, mask


def test_normal_patches_hold_no_tumor_and_tumor_patches_some():
    table, _ = lay_slide()
    tumor = is_tumor(table)
    assert (tumor.sum(), (~tumor).sum()) == (20, 30)
    x = table["x"].to_numpy()
    # A patch's middle lies in the candidate's px, and so its corner 16 px before it.
    assert x[tumor].max() < 160 - 16
    assert (x[~tumor] >= 160).all()
    assert x[~tumor].max() < 80 * 8 - 16


def test_patches_stand_for_the_area_they_were_drawn_from():
    table, mask = lay_slide()
    tumor, area = is_tumor(table), table["area_mm2"].to_numpy()
    assert area[tumor].sum() == pytest.approx(100 * 20 * 16 / 1e6)
    # Less than the 60 px wide rest: the patches next to the tumor were refused.
    rest = 100 * 60 * 16 / 1e6
    assert 0.85 * rest < area[~tumor].sum() < rest
    assert mask.area_mm2 == pytest.approx(100 * 80 * 16 / 1e6)


def test_a_slide_not_wholly_annotated_gives_no_normal_patch():
    table, _ = lay_slide(normal=False)
    assert is_tumor(table).all()
    assert len(table) == 20


def test_fewer_candidates_than_asked_for_are_all_taken_once():
    mask = Mask(array=np.ones((3, 3), bool), mpp_x=4.0, mpp_y=4.0)
    table = draw_samples(
        "s",
        find_candidates(mask, np.zeros((3, 3), bool), normal=True),
        mask,
        FRAME,
        lambda x, y: 0.0,
        spec=SPEC,
        rng=np.random.default_rng(0),
    )
    corners = zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)
    cells = {((x + 16) // 8, (y + 16) // 8) for x, y in corners}
    assert cells == {(i, j) for i in range(3) for j in range(3)}


def test_half_of_every_batch_is_tumor():
    draws = epoch(samples(5, 40))
    tumor = is_tumor(draws).reshape(4, 16)
    assert (tumor.sum(axis=1) == 8).all()
    assert draws["batch"].to_pylist() == [i // 16 for i in range(64)]


def test_every_patch_of_a_kind_comes_before_any_comes_again():
    draws = epoch(samples(8, 100))
    x = draws["x"].to_numpy()
    tumor = x[is_tumor(draws)]
    assert [sorted(part) for part in tumor.reshape(4, 8).tolist()] == [[*range(8)]] * 4
    normal = x[~is_tumor(draws)]
    assert len(set(normal.tolist())) == 32


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_every_batch_in_balanced_parts(workers):
    draws = epoch(samples(50, 50))
    parts = [share_of(draws, rank=r, workers=workers) for r in range(workers)]
    for part in parts:
        assert part["batch"].to_pylist() == [
            i // (16 // workers) for i in range(64 // workers)
        ]
        assert is_tumor(part).sum() == len(part) // 2
    seeds = [seed for part in parts for seed in part["seed"].to_pylist()]
    assert sorted(seeds) == sorted(draws["seed"].to_pylist())


def test_centers_move_uniformly_in_a_disc():
    draws = epoch(samples(1, 1), patches=8000)
    dx, dy = draws["dx"].to_numpy(), draws["dy"].to_numpy()
    radius = np.hypot(dx, dy)
    assert radius.max() <= 128 + 0.71  # rounded to whole px
    # Uniform in a disc: the squared radius is uniform, and so is the angle.
    assert scipy.stats.kstest((radius / 128) ** 2, "uniform").pvalue > 0.01
    angle = np.arctan2(dy, dx) / (2 * np.pi) + 0.5
    assert scipy.stats.kstest(angle, "uniform").pvalue > 0.01


def test_each_epoch_draws_anew_and_always_the_same():
    table = samples(20, 20)
    assert epoch(table, 3).equals(epoch(table, 3))
    assert epoch(table, 3)["dx"] != epoch(table, 4)["dx"]
    assert epoch(table, 3)["x"] != epoch(table, 4)["x"]


def test_no_jitter_leaves_the_centers():
    draws = epoch(samples(2, 2), jitter=0)
    assert not draws["dx"].to_numpy().any()
    assert not draws["dy"].to_numpy().any()


@pytest.mark.parametrize(
    ("tumor", "normal", "missing"),
    [(0, 5, "none of 5 patches contains tumor"), (5, 0, "all 5 patches contain tumor")],
)
def test_a_missing_kind_is_told(tumor, normal, missing):
    with pytest.raises(ValueError, match=missing):
        epoch(samples(tumor, normal))


def test_an_epoch_sees_each_tumor_patch_once_unless_told():
    table = samples(50, 10)
    assert epoch_length(table, SamplingSpec(), 16) == 96  # 100, in batches
    assert epoch_length(table, SamplingSpec(epoch_patches=33), 16) == 32
    assert epoch_length(table, SamplingSpec(epoch_patches=2), 16) == 16


def test_validation_draws_are_fixed_and_balanced_as_far_as_they_go():
    table = samples(10, 100)
    draws = draw_validation(table, limit=40, batch_size=16, seed=5)
    assert is_tumor(draws).sum() == 10
    assert len(draws) == 40
    assert set(draws["seed"].to_pylist()) == {-1}
    assert not draws["dx"].to_numpy().any()
    assert draws.equals(draw_validation(table, limit=40, batch_size=16, seed=5))
    both = draw_validation(samples(100, 100), limit=40, batch_size=16, seed=5)
    assert is_tumor(both).sum() == 20


def test_slides_join_into_one_table():
    joined = kept_slides([samples(1, 0, slide_id="a"), samples(0, 2, slide_id="b")])
    assert joined["slide_id"].to_pylist() == ["a", "b", "b"]
    assert len(kept_slides([])) == 0
