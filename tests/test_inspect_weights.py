"""``digipath weights inspect``: what is found is right, what is not is asked."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from digipath_ray.cli import run_app
from digipath_ray.networks.card import card_path, read_card
from digipath_ray.networks.inspection import inspect_file
from digipath_ray.networks.resolve import resolve
from tests.file_members import (
    FILES,
    WRITERS,
    Green,
    Strided,
    write_exported,
    write_onnx,
)
from tests.tiny import Tiny

ANSWERS = {
    "mpp": 1.0,
    "patch_px": 64,
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "input_scale": "0..1",
    "channel_order": "RGB",
    "classes": ["other", "tumor"],
    "tumor_classes": ["tumor"],
    "border_px": 4,
    "license": "CC0-1.0",
}


@pytest.mark.parametrize("kind", FILES)
def test_a_card_is_asked_for_and_then_read(tmp_path, kind, capsys):
    path = WRITERS[kind](Tiny(), tmp_path / f"my net{FILES[kind]}")
    assert run_app(["weights", "inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "multiples of 2 px" in said if kind == "onnx" else "of 64 px" in said
    assert "how many um per px was it trained at?" in said
    card = card_path(path)
    values = json.loads(card.read_text())
    assert values["name"] == "my-net"
    assert values["output"] == "logits"
    asked = {*ANSWERS, "activation"} - ({"patch_px"} if kind == "exported" else set())
    assert {k for k, v in values.items() if v is None} == asked | {"encoder"}

    for key in sorted(asked):
        with pytest.raises(ValueError, match="is null: answer this question in the"):
            resolve({}, weights=path)
        values[key] = {**ANSWERS, "activation": "softmax"}[key]
        card.write_text(json.dumps(values))
    assert resolve({"grid": {"downsample": 4}}, weights=path).members[0].border_px == 4
    assert read_card(path).patch_multiple == (2 if kind == "onnx" else 1)

    assert run_app(["weights", "inspect", str(path)]) == 2
    assert "there already" in capsys.readouterr().err
    assert json.loads(card.read_text()) == values


@pytest.mark.parametrize(("stride", "cut"), [(1, 0), (2, 0), (4, 8), (1, 20)])
def test_where_an_answer_lies_is_measured(tmp_path, stride, cut):
    path = write_onnx(Green(stride, cut), tmp_path / "g.onnx")
    found = inspect_file(path)
    assert found.known["output_stride"] == found.known["patch_multiple"] == stride
    assert found.questions["border_px"].endswith(f"At least {cut}")
    assert found.known["layout"] == "NCHW"


def test_a_stride_that_rounds_sizes_up_is_measured_as_it_is(tmp_path):
    # 65 px are answered with a px more than 64: no sign of a stride of 1.
    found = inspect_file(write_onnx(Strided(), tmp_path / "s.onnx"))
    assert found.known["output_stride"] == found.known["patch_multiple"] == 4
    assert found.questions["border_px"].endswith("At least 0")


def test_what_cannot_be_measured_is_asked(tmp_path):
    # 24 px to 64 may be 24 of the patch or 48.
    path = write_exported(Green(1, 20), tmp_path / "g.pt2")
    found = inspect_file(path)
    assert found.known["patch_px"] == 64
    asked = found.questions["output_stride"]
    assert asked.endswith("stand: 1 (20 px cut off), or 2 (8 px cut off)?")


class Answering(nn.Module):
    """Answers with a function of green."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, pixels: Tensor) -> Tensor:
        green = pixels[:, 1:2]
        if self.how == "one":
            return green - 0.5
        both = torch.cat([green, -green], dim=1)
        return both.softmax(1) if self.how == "softmax" else (both - 1).sigmoid()


@pytest.mark.parametrize(
    ("how", "output", "activation"),
    [
        ("one", "logits", "sigmoid"),
        ("softmax", "probabilities", "softmax"),
        ("sigmoid", "probabilities", "sigmoid"),
    ],
)
def test_numbers_are_told_apart(tmp_path, how, output, activation):
    path = write_exported(Answering(how), tmp_path / "a.pt2")
    known = inspect_file(path).known
    assert (known["output"], known["activation"]) == (output, activation)


def test_what_can_be_no_member_is_refused(tmp_path: Path, capsys):
    path = tmp_path / "net.pth"
    torch.save({"w": torch.zeros(1)}, path)
    assert run_app(["weights", "inspect", str(path)]) == 2
    assert "digipath import-weights" in " ".join(capsys.readouterr().err.split())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    path = write_exported(flat, tmp_path / "flat.pt2")
    with pytest.raises(ValueError, match="its answer has shape"):
        inspect_file(path)
    assert not card_path(path).exists()
