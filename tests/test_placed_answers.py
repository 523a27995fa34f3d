"""Answers at another stride, or without a border, lie where they belong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from openslide import OpenSlide
from torch import Tensor

from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.config.toml import from_tree
from digipath_ray.heatmap.canvas import window_of
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.segment import segment_slide
from tests.file_members import Green, give_card, write_exported
from tests.runs import write_slide

GRID = {"mpp": 1.0, "patch_px": 64, "stride_px": 32, "downsample": 4}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "s.tif", glass=0)


def member(folder: Path, stride: int, cut: int, border: int) -> Path:
    path = write_exported(Green(stride, cut), folder / "green.pt2")
    return give_card(path, output_stride=stride, border_px=border)


def segment(slide: Path, config: RunConfig) -> Heatmap:
    return segment_slide(slide, config, load_ensemble(config))


def green_of(slide: Path, heatmap: Heatmap) -> np.ndarray:
    """Mean green of each heatmap px of a slide; white is what lies beyond it."""
    with OpenSlide(slide) as opened:
        seen = opened.read_region((0, 0), 0, opened.dimensions)
    pixels = np.asarray(seen)[..., 1] / 255
    height, width = heatmap.probability.shape
    whole = np.ones((height * 4, width * 4))
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return whole.reshape(height, 4, width, 4).mean((1, 3))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(("cut", "border"), [(0, 0), (0, 8), (8, 8), (4, 6)])
@pytest.mark.parametrize("tta", [("identity",), ("rot90", "hflip")])
def test_green_lies_where_it_is(slide, tmp_path, stride, cut, border, tta):
    tree = {"grid": GRID, "tissue": {"tissue": "all"}, "ensemble": {"tta": tta}}
    config = resolve(tree, weights=member(tmp_path, stride, cut, border))
    heatmap = segment(slide, config)
    want = green_of(slide, heatmap)
    unknown = -(-border // 4)
    assert config.hm_border == unknown
    # Nothing is known along the slide's edges, unless a patch overhangs them.
    rows, cols = (covered(side, unknown) for side in want.shape)
    inside = np.outer(rows, cols)
    assert inside.sum() >= (40 - 2 * unknown) * (50 - unknown)
    found = heatmap.probability
    np.testing.assert_allclose(found[inside], want[inside], atol=1e-6)
    assert (found[~inside] == 0).all()
    np.testing.assert_array_equal(heatmap.weight > 0, inside)


def covered(side: int, unknown: int) -> np.ndarray:
    """Which heatmap px along a side lie in the middle of a patch of 16, every 8."""
    seen = np.zeros(side + 16, bool)
    for start in range(0, side - 8, 8):
        seen[start + unknown : start + 16 - unknown] = True
    return seen[:side]


@pytest.mark.parametrize("blend", ["mean", "linear", "gaussian"])
def test_borders_have_no_weight(blend):
    tree = {"grid": GRID, "ensemble": {"blend": blend}}
    row = {"name": "a", "architecture": "onnx"}
    plain = window_of(from_tree({**tree, "members": [row]}))
    found = window_of(from_tree({**tree, "members": [{**row, "border_px": 5}]}))
    assert (plain > 0).all()
    inside = np.s_[2:-2, 2:-2]
    np.testing.assert_array_equal(found[inside], plain[inside])
    assert found.sum() == pytest.approx(plain[inside].sum())


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"stride_px": 48}, r"grid\.stride_px = 48: at most 40, .*within 10 px"),
        ({"patch_px": 32, "stride_px": 16}, r"at most 8"),
        ({"overlap": "adaptive"}, r"grid\.overlap = 'adaptive': full where"),
    ],
)
def test_what_would_leave_gaps_is_refused(grid, message):
    row = {"name": "a", "architecture": "onnx", "border_px": 10}
    with pytest.raises(ValueError, match=message):
        from_tree({"grid": {**GRID, **grid}, "members": [row]})


def answer_of(**says) -> Answer:
    return Answer.of(MemberSpec(name="a", architecture="onnx", **says))


def test_a_px_of_the_answer_stands_for_its_square():
    says = {"output": "probabilities", "output_stride": 2, "border_px": 1}
    given = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    found = answer_of(**says).posterior(torch.stack([1 - given, given])[None], (6, 6))
    want = np.pad(np.kron(given.numpy(), np.ones((2, 2))), 1)
    np.testing.assert_array_equal(found[0].numpy(), want.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 7, 7), "does not lie in the middle"),
        ((1, 2, 9, 9), "does not lie in the middle"),
        ((1, 2, 8, 6), "does not lie in the middle"),
        ((1, 2, 4, 4), "border_px must be 2 at least, not 1"),
        ((1, 3, 8, 8), "not .batch, 2, h, w."),
        ((1, 2, 8), "not .batch, 2, h, w."),
    ],
)
def test_answers_that_lie_nowhere_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        answer_of(border_px=1).posterior(torch.zeros(shape), (8, 8))


def probabilities(logits: Tensor, **says) -> Tensor:
    return answer_of(**says).posterior(logits, (4, 4))


def test_logits_become_probabilities():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4)
    names = {"classes": ("a", "b", "tumor")}
    e = np.exp(logits.double().numpy())
    softmax = e / e.sum(1, keepdims=True)
    found = probabilities(logits, **names)
    np.testing.assert_allclose(found, softmax[:, 2], atol=1e-6)
    found = probabilities(logits, **names, tumor_classes=("b", "tumor"))
    np.testing.assert_allclose(found, softmax[:, 1:].sum(1), atol=1e-6)
    found = probabilities(logits, **names, activation="sigmoid", temperature=2.0)
    halved = np.exp(logits[:, 2].double().numpy() / 2)
    np.testing.assert_allclose(found, halved / (1 + halved), atol=1e-6)
    one = {"classes": ("tumor",), "activation": "sigmoid"}
    found = probabilities(logits[:, 2:], **one)
    np.testing.assert_allclose(found, e[:, 2] / (1 + e[:, 2]), atol=1e-6)


def test_what_is_no_probability_stays_none():
    said = {"output": "probabilities"}
    beyond = torch.tensor([-0.5, -1e-4, 1 + 1e-4, 1.5]).repeat(1, 2, 4, 1)
    found = probabilities(beyond, **said)[0, 0]
    assert found.tolist() == pytest.approx([-0.5, 0, 1, 1.5])
