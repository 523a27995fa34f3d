"""A network from a file gives the heatmap of the network that it was made of."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from digipath_ray.config.run import MemberSpec
from digipath_ray.config.toml import Tree, from_tree, merge
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.build import build_network
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weight_files import fetch_weights, found_weights
from digipath_ray.networks.weights import load_member
from digipath_ray.report.methods import write_methods
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import is_url, place
from tests.file_members import FILES, WRITERS, Green, give_card
from tests.members import LIGHT, write_member
from tests.runs import RAY_WARNINGS, SMALL, heatmaps, make_run, write_cohort

COLORS = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
SAYS = {"output": "logits", **COLORS}


def as_files(spec: MemberSpec, folder: Path, **says) -> list[Path]:
    """A network drawn from its seed, as a file of each kind."""
    network = build_network(spec)
    return [
        give_card(
            WRITERS[kind](network, folder / kind / f"{kind}{suffix}"),
            name=kind,
            **{**SAYS, **says},
        )
        for kind, suffix in FILES.items()
    ]


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_one_heatmap_of_three_kinds_of_members(ray_here, tmp_path):
    torch_member = write_member(tmp_path, LIGHT, patch_px=64, mpp=1.0, **COLORS)
    files = [torch_member, *as_files(LIGHT, tmp_path, mpp=1.0)]
    changes: Tree = {
        "members": [{"weights": str(path)} for path in files],
        "ensemble": {"keep_members": True},
        "compute": {"pools": "per-member"},
    }
    config = resolve(merge(SMALL, changes))
    rows = write_cohort(tmp_path / "cohort", 1)
    run = RunDirectory(tmp_path / "run")
    run_cohort(run, rows, config)
    (heatmap,) = heatmaps(run).values()
    maps = dict(zip(heatmap.channels, heatmap.data, strict=True))
    want = maps[f"member:{LIGHT.name}"]
    assert np.ptp(want) > 0.01
    for kind in FILES:
        np.testing.assert_allclose(maps[f"member:{kind}"], want, atol=1e-4)
    np.testing.assert_allclose(maps["epistemic"], 0, atol=1e-8)


def test_a_network_of_smp_says_the_same_from_files(tmp_path):
    weights = write_member(tmp_path, LIGHT, patch_px=64, **COLORS)
    files = as_files(LIGHT, tmp_path)
    grid = {"grid": {"mpp": 0.5, "downsample": 4}}
    (spec,) = resolve(grid, weights=weights).members
    random = np.random.default_rng(0)
    patches = torch.from_numpy(random.integers(0, 256, (3, 3, 64, 64), np.uint8))
    want = load_member(spec)(patches)
    for path in files:
        (spec,) = resolve({"grid": {"downsample": 4}}, weights=path).members
        assert torch.allclose(load_member(spec)(patches), want, atol=1e-4)


def test_a_run_goes_on_only_with_the_same_file(tmp_path):
    path = as_files(MemberSpec(name="t", architecture="tests.tiny:Tiny"), tmp_path)[0]
    rows = write_cohort(tmp_path / "cohort", 1)
    tree = {**SMALL, "members": [{"weights": str(path)}]}
    make_run(tmp_path / "run", rows, resolve(tree))
    give_card(path, **SAYS, border_px=8)
    with pytest.raises(ValueError, match=r"members\.foreign\.border_px: 0 -> 8"):
        make_run(tmp_path / "run", rows, resolve(tree))


def test_the_methods_say_that_a_network_is_a_files():
    row = {"name": "a", "architecture": "onnx", "classes": ["c", "dcis", "tumor"],
           "tumor_classes": ["dcis", "tumor"]}  # fmt: skip
    text = " ".join(write_methods(from_tree({"members": [row]}), {}, precision=None))
    said = (
        "a network from an ONNX file (in its own precision), whose tumor is its class"
    )
    assert f"{said} dcis and tumor" in text


def test_models_lie_in_a_bucket_with_all_their_files(bucket_url, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "digipath_ray.networks.weight_files.CACHE", tmp_path / "weights"
    )
    made = WRITERS["onnx"](Green(), tmp_path / "made.onnx")
    path = tmp_path / "green.onnx"
    onnx.save_model(
        onnx.load(made),
        path,
        save_as_external_data=True,
        location="green.data",
        size_threshold=0,
    )
    give_card(path)
    for name in ("green.onnx", "green.data", "green.json"):
        (place(bucket_url) / name).write_bytes((tmp_path / name).read_bytes())
    url = f"{bucket_url}/green.onnx"
    assert found_weights(bucket_url) == [url]
    config = resolve({"grid": {"downsample": 4}}, weights=url)
    (spec,) = config.members
    assert is_url(spec.weights)
    patches = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    patches = patches.repeat(1, 3, 4, 4)
    found = load_member(spec)(patches)
    assert torch.allclose(found, patches[:, 1] / 255, atol=1e-6)

    (place(bucket_url) / "green.data").unlink()
    with pytest.raises(ValueError, match=r"green\.onnx: .*green\.data is missing"):
        fetch_weights(url)
