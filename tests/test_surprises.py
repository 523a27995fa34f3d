"""What machines and libraries lack is said before a run, with what to take instead."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digipath_ray.cli import doctor
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.sheet import read_sheet
from digipath_ray.config.run import MemberSpec
from digipath_ray.distributed.fit_member import check_gpus
from digipath_ray.networks import weights
from digipath_ray.networks.build import build_network
from digipath_ray.networks.check import check_member
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.weights import dtype_on, load_member
from digipath_ray.run.failure import RunError

UNET = MemberSpec(
    name="m", architecture="Unet", encoder="resnet18", weights="random", seed=0
)


@pytest.mark.parametrize("architecture", ["DeepLabV3Plus", "DeepLabV3", "PAN"])
@pytest.mark.parametrize("encoder", ["tu-vgg11", "vgg11", "tu-dla34"])
def test_encoders_that_cannot_be_dilated(architecture: str, encoder: str) -> None:
    spec = replace(UNET, architecture=architecture, encoder=encoder)
    with pytest.raises(ValueError, match=f"{encoder} cannot be dilated") as caught:
        build_network(spec)
    assert "resnet50" in str(caught.value)
    assert f"or Unet with {encoder}" in str(caught.value)


def test_what_an_encoder_that_can_be_dilated_gets_wrong_is_said() -> None:
    spec = replace(UNET, architecture="DeepLabV3Plus", options={"decoder_channels": -1})
    with pytest.raises(ValueError, match="cannot be built"):
        build_network(spec)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("Unet", "tu-legacy_xception"), ("Segformer", "tu-legacy_xception")],
)
def test_encoders_that_do_not_pad(architecture: str, encoder: str) -> None:
    spec = replace(UNET, architecture=architecture, encoder=encoder)
    with pytest.raises(ValueError, match="does not pad: its map of 128 px has 125"):
        check_member(spec, patch_px=256)
    tree = {
        "members": [
            {"name": "m", "architecture": architecture, "encoder": encoder},
        ],
        "grid": {"patch_px": 256, "stride_px": 128},
    }
    with pytest.raises(ValueError, match="does not pad"):
        resolve_recipe(tree, init="random")


@pytest.mark.parametrize(
    ("encoder", "patch_px"),
    [("resnet18", 256), ("mit_b0", 256), ("vgg11", 224), ("mobilenet_v2", 96)],
)
def test_encoders_that_pad_are_taken(encoder: str, patch_px: int) -> None:
    check_member(replace(UNET, encoder=encoder), patch_px=patch_px)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("timm-regnetx_002", "tu-regnetx_002"),
        ("timm-res2net50_26w_4s", "tu-res2net50_26w_4s"),
        ("timm-resnest14d", "tu-resnest14d"),
        ("timm-gernet_s", "tu-gernet_s"),
        ("timm-mobilenetv3_large_075", "tu-tf_mobilenetv3_large_075"),
    ],
)
def test_former_names_of_encoders(former: str, now: str) -> None:
    with pytest.raises(ValueError, match=f"{former} is called {now} now"):
        build_network(replace(UNET, encoder=former))
    build_network(replace(UNET, encoder=now))


def test_bfloat16_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(weights, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=r"this CPU has none.*take float32"):
        dtype_on(cpu, "bfloat16")
    with pytest.raises(ValueError, match="take float32"):
        load_member(UNET, precision="bfloat16")
    assert dtype_on(cpu, "auto") == torch.float32
    monkeypatch.undo()
    assert isinstance(weights.cpu_has_bfloat16(), bool)


def test_compiling_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no g\+\+ on .*: apt-get install g\+\+"):
        load_member(UNET, compile_networks=True)
    verdict, what, text = doctor.check_cpp()
    assert (verdict, what, "g++" in text) == ("warn", "compiler", True)
    (tmp_path / "g++").touch(mode=0o755)
    assert doctor.check_cpp()[0] == "ok"
    monkeypatch.setenv("CXX", "another")
    assert "no another on" in doctor.check_cpp()[2]


def test_a_fit_says_that_it_waits_for_gpus(caplog: pytest.LogCaptureFixture) -> None:
    alone = {"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0, "CPU": 4.0}
    with pytest.raises(RunError, match="need 1 GPUs, and there are 0 on this machine"):
        check_gpus(1.0, alone)
    check_gpus(0.0, alone)
    check_gpus(1.0, {**alone, "GPU": 1.0})
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        check_gpus(2.0, {**alone, "node:10.0.0.2": 1.0, "GPU": 1.0})
    assert "waiting for nodes to join; or lower --worker-gpus" in caplog.text


@pytest.mark.parametrize("name", ["c.xlsx", "c.XLS", "c.ods", "c.csv"])
def test_a_workbook_is_to_be_saved_as_csv(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04" + os.urandom(99))
    for read in (lambda: read_cohort([str(path)]), lambda: read_sheet(path)):
        with pytest.raises(ValueError, match="save it as CSV") as caught:
            read()
        assert str(caught.value).startswith(f"{path}: ")
