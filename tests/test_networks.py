import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from digipath_ray.cli import run_app
from digipath_ray.config.run import MemberSpec
from digipath_ray.config.toml import from_tree, to_tree
from digipath_ray.networks.build import PAPER_MEMBERS, Member, build_network
from digipath_ray.networks.card import read_card
from digipath_ray.networks.check import check_member
from digipath_ray.networks.import_weights import import_checkpoint
from digipath_ray.networks.normalization import default_normalization
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weights import dtype_on, load_member
from digipath_ray.storage.files import file_digest
from tests.members import LIGHT, card_of, write_member
from tests.tiny import Tiny

PAPER = {m.name: m for m in PAPER_MEMBERS}
NOISE = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8)
)


def row(spec, **more):
    """The [[members]] row of a spec."""
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "encoder": spec.encoder,
        **more,
    }


# --- networks ---


def test_the_paper_has_these_three_members():
    assert [(m.architecture, m.encoder) for m in PAPER_MEMBERS] == [
        ("Unet", "densenet121"),
        ("Unet", "inceptionresnetv2"),
        ("DeepLabV3Plus", "tu-xception65"),
    ]


@pytest.mark.parametrize("name", PAPER)
def test_paper_members_answer_two_classes_at_full_size(name):
    network = build_network(PAPER[name]).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_xception_is_dilated_to_output_stride_16():
    network = build_network(PAPER["deeplabv3plus-xception65"]).to("meta")
    features = network.encoder(torch.empty(1, 3, 1024, 1024, device="meta"))
    assert [f.shape[-1] for f in features] == [1024, 512, 256, 128, 64, 64]
    assert features[-1].shape == (1, 2048, 64, 64)


def test_the_other_xception_cannot_be_dilated():
    spec = replace(PAPER["deeplabv3plus-xception65"], encoder="xception")
    with pytest.raises(ValueError, match="the encoder xception cannot be dilated"):
        build_network(spec)


@pytest.mark.parametrize("name", ["unet-densenet121", "unet-inceptionresnetv2"])
def test_the_papers_unets_upsample_bilinearly(name):
    blocks = build_network(PAPER[name]).decoder.blocks
    assert {b.interpolation_mode for b in blocks} == {"bilinear"}


def test_deeplab_upsamples_bilinearly():
    network = build_network(PAPER["deeplabv3plus-xception65"])
    modes = [m.mode for m in network.modules() if hasattr(m, "scale_factor")]
    assert modes == ["bilinear", "bilinear"]


def test_building_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    build_network(LIGHT)
    assert torch.equal(torch.rand(3), want)


def test_a_network_of_ones_own_is_named_by_its_module_and_class():
    spec = MemberSpec(
        name="own", architecture="tests.tiny:Tiny", options={"width": 4}, seed=3
    )
    network, again = build_network(spec), build_network(spec)
    assert isinstance(network, Tiny)
    assert network.segmentation_head.in_channels == 4
    assert (
        default_normalization(replace(spec, weights="random"))
        == ((128 / 255,) * 3,) * 2
    )
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    check_member(replace(spec, weights="random"), patch_px=64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "no_such_module:Net"}, "'no_such_module:Net' cannot be imp"),
        ({"architecture": "tests.tiny:Net"}, "cannot be imported: module 'tests.tiny'"),
        ({"architecture": "os:getcwd"}, "os:getcwd is no class of torch.nn.Module"),
        ({"encoder": "resnet18"}, "has its own encoder"),
        ({"options": {"widht": 4}}, "unknown option of .*closest are width"),
    ],
)
def test_what_is_no_network_of_ones_own_is_refused(change, message):
    spec = MemberSpec(name="own", architecture="tests.tiny:Tiny")
    with pytest.raises(ValueError, match=message):
        build_network(replace(spec, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "unet"}, r"unknown architecture 'unet'; closest are Unet"),
        (
            {"architecture": "Transformer9"},
            r"unknown architecture .*known are Unet, UnetPlusPlus",
        ),
        ({"encoder": "densenet122"}, r"unknown encoder .*closest are .*densenet121"),
        ({"encoder": "tu-xception66"}, r"unknown encoder .*tu-xception65"),
        ({"encoder": None}, r"Unet needs an encoder, .*--encoder densenet121"),
        (
            {"options": {"decoder_interpolatoin": "bilinear"}},
            r"unknown option of Unet .*closest are decoder_interpolation",
        ),
        ({"options": {"classes": 3}}, r"unknown option of Unet 'classes'"),
        ({"options": {"activation": "softmax"}}, r"unknown option of Unet"),
        ({"options": {"encoder_depth": 9}}, r"Unet with .* cannot be built"),
    ],
)
def test_what_is_unknown_is_named_with_the_closest(change, message):
    with pytest.raises(ValueError, match=f"member light: {message}"):
        build_network(replace(LIGHT, **change))


# --- normalization ---

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("unet-densenet121", IMAGENET),
        ("unet-inceptionresnetv2", HALF),
        ("deeplabv3plus-xception65", HALF),
    ],
)
def test_each_paper_member_has_its_encoders_normalization(name, want):
    assert default_normalization(PAPER[name]) == want
    assert default_normalization(replace(PAPER[name], weights="imagenet")) == want


@pytest.mark.parametrize(
    ("encoder", "want"),
    [
        ("resnet18", IMAGENET),
        ("inceptionv4", HALF),
        ("timm-tf_efficientnet_lite0", HALF),
        ("timm-efficientnet-b0", IMAGENET),
        ("tu-tf_efficientnet_lite0", HALF),
        ("tu-resnet18", IMAGENET),
    ],
)
def test_normalization_of_other_encoders(encoder, want):
    spec = replace(LIGHT, encoder=encoder, weights="imagenet")
    assert default_normalization(spec) == want


def test_dpn_has_a_normalization_of_its_own():
    mean, std = default_normalization(replace(LIGHT, encoder="dpn68", weights=None))
    assert mean == pytest.approx((0.4863, 0.4588, 0.4078), abs=1e-4)
    assert std == pytest.approx((0.2348, 0.2348, 0.2348), abs=1e-4)


def test_random_weights_see_x_minus_128_over_128():
    mean, std = default_normalization(LIGHT)
    x = np.array([0, 128, 255])
    np.testing.assert_allclose((x / 255 - mean[0]) / std[0], (x - 128) / 128)


def test_an_encoder_without_normalization_asks_for_one():
    # A timm architecture that has no weights.
    spec = replace(LIGHT, encoder="tu-resnet51q_x", weights="imagenet")
    with pytest.raises(ValueError, match="give mean and std"):
        default_normalization(spec)


class Echo(torch.nn.Module):
    """Logits (0, red as the network sees it)."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :1]], dim=1)


def test_a_member_normalizes_before_its_network_and_takes_the_second_class():
    member = Member(Echo(), normalization=((0.5, 0.1, 0.2), (0.25, 0.5, 0.5)))
    pixels = torch.tensor([0, 102, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    got = member(pixels.expand(1, 3, 1, 3))
    logits = np.array([-2.0, -0.4, 2.0])
    np.testing.assert_allclose(got, [[1 / (1 + np.exp(-logits))]], atol=1e-6)
    assert got.dtype == torch.float32


# --- weights ---


def test_a_member_is_frozen_and_answers_probabilities():
    member = load_member(LIGHT)
    assert not member.training
    assert not member.network.training
    assert not any(p.requires_grad for p in member.parameters())
    got = member(NOISE)
    assert got.shape == (2, 64, 64)
    assert got.dtype == torch.float32
    assert 0 <= got.min() < got.max() <= 1


def test_random_weights_come_from_the_seed_alone():
    first = load_member(LIGHT)(NOISE)
    torch.manual_seed(99)
    assert torch.equal(load_member(LIGHT)(NOISE), first)
    assert not torch.equal(load_member(replace(LIGHT, seed=1))(NOISE), first)


def test_bfloat16_on_a_cpu_is_near_float32():
    half = load_member(LIGHT, precision="bfloat16")
    assert half.network.segmentation_head[0].weight.dtype == torch.bfloat16
    difference = half(NOISE) - load_member(LIGHT)(NOISE)
    assert 0 < difference.abs().max() < 0.05


def test_precision_is_half_only_on_a_gpu():
    cpu = torch.device("cpu")
    assert dtype_on(cpu, "auto") == torch.float32
    assert dtype_on(torch.device("cuda"), "auto") == torch.float16
    assert dtype_on(cpu, "bfloat16") == torch.bfloat16
    assert load_member(LIGHT, precision="auto").dtype == torch.float32
    with pytest.raises(ValueError, match="'float16': needs a GPU, not cpu"):
        load_member(LIGHT, precision="float16")


def test_weights_come_back_from_a_file(tmp_path):
    path = write_member(tmp_path, replace(LIGHT, seed=5))
    loaded = replace(LIGHT, weights=str(path), mean=(0.5,) * 3, std=(0.5,) * 3)
    drawn = replace(loaded, weights="random", seed=5)
    assert torch.equal(load_member(loaded)(NOISE), load_member(drawn)(NOISE))


def test_no_weights_says_what_to_give():
    with pytest.raises(ValueError, match=r"no weights for light: give --weights DIR"):
        load_member(replace(LIGHT, weights=None))


def test_weights_of_another_architecture_name_tensors_and_card(tmp_path):
    path = write_member(tmp_path, replace(LIGHT, encoder="mobilenet_v2"))
    with pytest.raises(ValueError, match="weights of another architecture") as e:
        load_member(replace(LIGHT, weights=str(path)))
    text = str(e.value)
    assert str(path) in text
    assert "missing (" in text
    assert "unexpected (encoder.features.0.0.weight, " in text
    assert "its card says Unet with mobilenet_v2" in text


def test_tensors_of_another_shape_are_named(tmp_path):
    spec = replace(LIGHT, options={"decoder_channels": [64, 32, 16, 8, 8]})
    path = write_member(tmp_path, spec)
    message = r"of another shape \(decoder\.blocks\.0\.conv1\.0\.weight \[64, .*\[256, "
    with pytest.raises(ValueError, match=message):
        load_member(replace(LIGHT, weights=str(path)))


def test_a_file_that_was_swapped_since_is_refused(tmp_path):
    path = write_member(tmp_path, LIGHT)
    with pytest.raises(ValueError, match="not the file the run was set up with"):
        load_member(replace(LIGHT, weights=str(path), digest="1" * 64))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("ramdom", "weights ramdom: folder not found, and neither random nor imagenet"),
        ("net.pth", r"weights net\.pth: neither random, imagenet nor a \.safetensors"),
    ],
)
def test_other_kinds_of_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        load_member(replace(LIGHT, weights=weights))


def test_a_file_that_is_not_there(tmp_path):
    weights = str(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match=r"gone\.safetensors: file not found"):
        load_member(replace(LIGHT, weights=weights))


def test_a_file_that_is_no_safetensors(tmp_path):
    path = tmp_path / "light.safetensors"
    path.write_bytes(b"PK\x03\x04 a pickle, renamed")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_member(replace(LIGHT, weights=str(path)))


@pytest.mark.slow
def test_imagenet_weights_offline_say_what_to_do(tmp_path):
    # huggingface_hub reads these variables once, at import: hence a new process.
    script = (
        "from digipath_ray.config.run import MemberSpec\n"
        "from digipath_ray.networks.build import build_network\n"
        "for encoder in ('resnet18', 'tu-resnet18'):\n"
        "    spec = MemberSpec(name='m', architecture='Unet', encoder=encoder,\n"
        "                      weights='imagenet')\n"
        "    try:\n"
        "        build_network(spec)\n"
        "    except ValueError as e:\n"
        "        print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    ours, timms = done.stdout.splitlines()
    assert ours.startswith("member m: the ImageNet weights of resnet18 are not in the")
    assert timms.startswith("member m: the ImageNet weights of tu-resnet18 are not in")
    assert "set HF_HOME" in ours
    assert "set HF_HOME" in timms


def test_encoders_without_imagenet_weights_are_refused():
    spec = replace(LIGHT, encoder="dpn68b", weights="imagenet")
    with pytest.raises(ValueError, match="Wrong pretrained weights `imagenet`"):
        build_network(spec)


# --- bringing a checkpoint in ---


WAYS_TO_STORE = {
    "bare": lambda t: t,
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "tutorial": lambda t: {"model_state_dict": t, "optimizer": {"state": {}}},
    "a score of numpy": lambda t: {"state_dict": t, "best": np.float64(0.9)},
    "half": lambda t: {
        k: v.half() if v.is_floating_point() else v for k, v in t.items()
    },
    "module": lambda t: {f"module.{k}": v for k, v in t.items()},
    "compiled": lambda t: {"net": {f"_orig_mod.module.{k}": v for k, v in t.items()}},
    "lightning": lambda t: {
        "state_dict": {
            **{f"model.{k}": v for k, v in t.items()},
            "loss_fn.weight": torch.ones(2),
        }
    },
}


def test_a_checkpoint_with_a_normalization_of_its_own_is_asked_about(tmp_path, capsys):
    tensors = build_network(LIGHT).state_dict()
    half = torch.full((1, 3, 1, 1), 0.5)
    stored = {f"model.{k}": v for k, v in tensors.items()}
    torch.save({**stored, "mean": half, "std": half / 2}, tmp_path / "old.ckpt")
    new = tmp_path / "new" / "a.safetensors"  # in a folder that is not there yet
    command = ["import-weights", str(tmp_path / "old.ckpt"), "--out", str(new)]
    command += ["--architecture", LIGHT.architecture, "--encoder", LIGHT.encoder]
    command += ["--mpp", "1", "--patch-px", "64"]
    for name, value in LIGHT.options.items():
        command += ["--option", f"{name}={json.dumps(value)}"]
    onnx = str(new.with_suffix(".onnx"))
    elsewhere = [onnx if word == str(new) else word for word in command]
    assert run_app(elsewhere) == 2  # it would be tensors under the name of a network
    assert "a .safetensors file" in " ".join(capsys.readouterr().err.split())
    assert not new.parent.exists()
    given = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    assert run_app(command) == 2
    assert " ".join(given) in " ".join(capsys.readouterr().err.split())
    assert not new.exists()
    assert run_app([*command, *given]) == 0
    assert read_card(new).std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("way", WAYS_TO_STORE)
def test_a_checkpoint_is_brought_in(tmp_path, way):
    network = build_network(LIGHT)
    for tensor in network.state_dict().values():  # so that half precision loses nothing
        tensor.copy_(tensor.half() if tensor.is_floating_point() else tensor)
    tensors = network.state_dict()
    torch.save(WAYS_TO_STORE[way](tensors), tmp_path / "old.pth")
    target = tmp_path / "new.safetensors"
    written = import_checkpoint(tmp_path / "old.pth", target, card_of(LIGHT))
    assert written == read_card(target)
    assert ("loss_fn.weight" in written.notes) == (way == "lightning")
    assert written.digest == file_digest(target)
    back = load_file(target)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)


def test_a_checkpoint_with_several_networks_is_asked_for(tmp_path):
    tensors = build_network(LIGHT).state_dict()
    averaged = build_network(replace(LIGHT, seed=5)).state_dict()
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    torch.save({"model": tensors, "ema": averaged}, old)
    with pytest.raises(ValueError, match=r"under model and ema, .* --key model"):
        import_checkpoint(old, new, card_of(LIGHT))
    import_checkpoint(old, new, card_of(LIGHT), key="ema")
    assert all(torch.equal(v, averaged[k]) for k, v in load_file(new).items())
    with pytest.raises(ValueError, match="no state_dict under 'x', but 'model', 'ema'"):
        import_checkpoint(old, new, card_of(LIGHT), key="x")


def test_one_logit_becomes_two_classes_exactly_and_channels_are_swapped(tmp_path):
    network = build_network(LIGHT)
    tensors = network.state_dict()
    head = {k: v for k, v in tensors.items() if k.startswith("segmentation_head")}
    logit = {k: v[1:] - v[:1] for k, v in head.items()}
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = network.eval()(pixels).softmax(1)
    for content, channel in (
        ({**tensors, **logit}, 1),
        ({**tensors, **{k: v.flip(0) for k, v in head.items()}}, 0),
    ):
        torch.save(content, old)
        card = import_checkpoint(old, new, card_of(LIGHT), tumor_channel=channel)
        assert card.notes
        network.load_state_dict(load_file(new))
        with torch.inference_mode():
            found = network.eval()(pixels).softmax(1)
        assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_colors_on_the_0_to_255_scale_are_refused_with_the_divided_ones(name):
    with pytest.raises(ValueError, match=r"on the 0\.\.255 scale; .* 0\.502, 0\.502"):
        replace(LIGHT, **{name: (128.0, 128.0, 128.0)})
    replace(LIGHT, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)  # takes 0 to 255


class Bomb:
    """What a pickle can do: write a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "old.pth")
    with pytest.raises(
        ValueError, match=r"old\.pth: not a PyTorch file of tensors alone.*save it with"
    ):
        import_checkpoint(
            tmp_path / "old.pth", tmp_path / "new.safetensors", card_of(LIGHT)
        )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no state_dict"),
        ({}, "holds no state_dict"),
        ({"weight": torch.zeros(3)}, r"not the weights of Unet .*missing .*unexpected"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "old.pth")
    target = tmp_path / "new.safetensors"
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / "old.pth", target, card_of(LIGHT))
    assert not target.exists()


def test_a_checkpoint_goes_to_safetensors_only(tmp_path):
    with pytest.raises(
        ValueError, match=r"new\.pth: tensors are written as .*new\.safetensors"
    ):
        import_checkpoint(tmp_path / "old.pth", tmp_path / "new.pth", card_of(LIGHT))


# --- resolving a run ---


def test_half_a_fit_is_no_ensemble(tmp_path):
    write_member(tmp_path, replace(LIGHT, name="a"))
    (tmp_path / "recipe.toml").write_text(
        '[[members]]\nname = "a"\n[[members]]\nname = "b"\n'
    )
    with pytest.raises(ValueError, match="names 2 members, and b is not fitted"):
        resolve({}, weights=tmp_path)
    assert len(resolve({}, weights=tmp_path, allow_partial=True).members) == 1
    assert len(resolve({}, weights=tmp_path / "a.safetensors").members) == 1
    write_member(tmp_path, replace(LIGHT, name="b"))
    (tmp_path / "._a.safetensors").write_bytes(b"what another system leaves")
    assert [m.name for m in resolve({}, weights=tmp_path).members] == ["a", "b"]


def test_members_come_from_the_cards_of_a_directory(tmp_path):
    b = write_member(tmp_path, replace(LIGHT, name="b"))
    a = write_member(tmp_path, replace(LIGHT, name="a", seed=1))
    config = resolve({"ensemble": {"keep_members": True}}, weights=tmp_path)
    assert [m.name for m in config.members] == ["a", "b"]
    assert [m.weights for m in config.members] == [str(a), str(b)]
    first = config.members[0]
    assert (first.architecture, first.encoder) == ("Unet", LIGHT.encoder)
    assert (first.mean, first.std) == ((0.7, 0.6, 0.7), (0.2, 0.2, 0.2))
    assert first.digest == file_digest(a)
    assert config.ensemble.keep_members


def test_one_file_is_one_member(tmp_path):
    path = write_member(tmp_path, LIGHT)
    assert [m.name for m in resolve({}, weights=str(path)).members] == ["light"]


def test_mpp_patch_and_stride_come_from_the_card(tmp_path):
    path = write_member(tmp_path, LIGHT)
    grid = resolve({}, weights=path).grid
    assert (grid.mpp, grid.patch_px, grid.stride_px) == (0.5, 256, 128)


def test_what_the_tree_says_of_the_grid_stays_said(tmp_path):
    path = write_member(tmp_path, LIGHT)
    said = {"patch_px": 512, "stride_px": 64, "downsample": 4, "mpp": 0.502}
    grid = resolve({"grid": said}, weights=path).grid
    assert (grid.patch_px, grid.stride_px, grid.downsample) == (512, 64, 4)
    assert grid.mpp == 0.502  # within 1 % of the card's 0.5


def test_another_mpp_than_the_cards_needs_force(tmp_path):
    path = write_member(tmp_path, LIGHT)
    tree = {"grid": {"mpp": 0.25}}
    with pytest.raises(ValueError, match=r"grid.mpp = 0.25, .*trained at 0.5 um/px"):
        resolve(tree, weights=path)
    assert resolve(tree, weights=path, force=True).grid.mpp == 0.25


def test_members_that_disagree_on_mpp_are_refused_even_by_force(tmp_path):
    write_member(tmp_path, replace(LIGHT, name="a"), mpp=0.5)
    write_member(tmp_path, replace(LIGHT, name="b"), mpp=0.25)
    with pytest.raises(ValueError, match=r"b was trained at 0\.25 um/px, member a at"):
        resolve({"grid": {"mpp": 0.5}}, weights=tmp_path, force=True)


def test_members_that_disagree_on_patches_ask_for_one(tmp_path):
    write_member(tmp_path, replace(LIGHT, name="a"), patch_px=256)
    write_member(tmp_path, replace(LIGHT, name="b"), patch_px=512)
    with pytest.raises(ValueError, match=r"\[256, 512\] px: choose with --patch-px"):
        resolve({}, weights=tmp_path)
    tree = {"grid": {"patch_px": 512}}
    assert resolve(tree, weights=tmp_path).grid.patch_px == 512


def test_a_members_row_is_filled_from_the_card(tmp_path):
    spec = replace(LIGHT, options={"decoder_interpolation": "bilinear"})
    path = write_member(tmp_path, spec)
    config = resolve({"members": [row(spec, weights=str(path), seed=4)]})
    (member,) = config.members
    assert member.options == {"decoder_interpolation": "bilinear"}
    assert member.mean == (0.7, 0.6, 0.7)
    assert member.seed == 4


def test_a_row_of_another_architecture_than_the_card_is_refused(tmp_path):
    path = write_member(tmp_path, LIGHT)
    other = row(replace(LIGHT, encoder="resnet18"), weights=str(path))
    with pytest.raises(ValueError, match=r"card says encoder = .*another architecture"):
        resolve({"members": [other]}, force=True)


def test_a_row_of_another_normalization_than_the_card_needs_force(tmp_path):
    path = write_member(tmp_path, LIGHT)
    tree = {"members": [row(LIGHT, weights=str(path), mean=[0.5, 0.5, 0.5])]}
    with pytest.raises(ValueError, match=r"card says mean = \(0.7, .*--force"):
        resolve(tree)
    (member,) = resolve(tree, force=True).members
    assert member.mean == (0.5, 0.5, 0.5)
    assert member.std == (0.2, 0.2, 0.2)


def test_what_was_resolved_resolves_to_itself(tmp_path):
    write_member(tmp_path, LIGHT)
    config = resolve({}, weights=tmp_path)
    tree = to_tree(config)
    assert resolve(tree) == config == from_tree(tree)


def test_the_papers_members_are_the_default_and_need_weights():
    names = ", ".join(PAPER)
    with pytest.raises(ValueError, match=f"no weights for {names}: give --weights DIR"):
        resolve({})


def test_random_weights_try_the_plumbing():
    tree = {"members": [row(LIGHT), row(replace(LIGHT, name="b"), seed=1)]}
    members = resolve(tree, weights="random").members
    assert [m.weights for m in members] == ["random", "random"]
    assert {m.mean for m in members} == {(128 / 255,) * 3}
    assert {m.digest for m in members} == {None}


def test_the_papers_members_run_on_random_weights():
    config = resolve({}, weights="random")
    assert [m.name for m in config.members] == list(PAPER)
    assert config.members[0].options == {"decoder_interpolation": "bilinear"}
    assert (config.grid.mpp, config.grid.patch_px, config.grid.stride_px) == (
        0.25,
        1024,
        512,
    )


def test_a_changed_file_is_refused_before_the_run(tmp_path):
    path = write_member(tmp_path, LIGHT)
    tensors = load_file(path)
    tensors["segmentation_head.0.bias"] += 1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"light\.safetensors: SHA-256 is .* its card"):
        resolve({}, weights=path)


def test_weights_that_changed_since_the_config_was_written(tmp_path):
    path = write_member(tmp_path, LIGHT)
    tree = to_tree(resolve({}, weights=path))
    write_member(tmp_path, replace(LIGHT, seed=2))
    with pytest.raises(ValueError, match="the file was changed, or its card"):
        resolve(tree)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_the_run(tmp_path, bad):
    def spoil(tensors):
        tensors["decoder.blocks.1.conv1.0.weight"][3, 2, 1, 1] = bad

    path = write_member(tmp_path, LIGHT, change=spoil)
    with pytest.raises(ValueError, match=r"decoder\.blocks\.1\.conv1\.0\.weight holds"):
        resolve({}, weights=path)


def test_tensors_that_do_not_fit_the_card_are_refused_before_the_run(tmp_path):
    path = write_member(tmp_path, LIGHT, encoder="resnet18")
    with pytest.raises(ValueError, match="weights of another architecture"):
        resolve({}, weights=path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.safetensors", "file not found"),
        ("gone", "gone: folder not found, and neither random nor imagenet$"),
        ("gone.pth", r"nor a \.safetensors, \.onnx or \.pt2 file"),
        ("", r"no \.safetensors, \.onnx, \.pt2 file in this"),
    ],
)
def test_weights_that_are_not_there(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        resolve({}, weights=tmp_path / name)


def test_weights_without_a_card_are_refused(tmp_path):
    path = write_member(tmp_path, LIGHT)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"no model card: .*light\.json is missing"):
        resolve({}, weights=tmp_path)


def test_a_patch_the_network_cannot_take_is_refused_before_the_run():
    spec = replace(LIGHT, architecture="DeepLabV3Plus", encoder="resnet18")
    check_member(spec, patch_px=96)
    with pytest.raises(ValueError, match=r"cannot take patches of 100 px: .*by 16"):
        check_member(spec, patch_px=100)


def test_a_wrong_type_in_the_grid_is_named(tmp_path):
    path = write_member(tmp_path, LIGHT)
    with pytest.raises(ValueError, match=r"grid.mpp = '0\.5': must be of type float"):
        resolve({"grid": {"mpp": "0.5"}}, weights=path)


def test_an_unknown_encoder_is_named_before_its_normalization_is_asked_for():
    tree = {"members": [row(replace(LIGHT, encoder="tu-xception66"))]}
    with pytest.raises(ValueError, match="unknown encoder 'tu-xception66'"):
        resolve(tree, weights="imagenet")


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match="unknown field 'mmp'"):
        resolve({"grid": {"mmp": 0.5}}, weights="random")
