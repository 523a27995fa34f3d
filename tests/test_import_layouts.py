"""Checkpoints as training frameworks leave them, brought in by their tensors' names."""

import json
from argparse import Namespace
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from digipath_ray.cli import run_app
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import read_card
from digipath_ray.networks.import_weights import import_checkpoint
from digipath_ray.networks.weights import card_spec, load_member
from tests.members import card_of
from tests.tiny import Tiny

TINY = MemberSpec(name="tiny", architecture="tests.tiny:Tiny", weights="random")
FPN = MemberSpec(
    name="fpn",
    architecture="FPN",
    encoder="mobilenet_v2",
    options={"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
)


class Lit(nn.Module):
    """A module as of Lightning: the network, a loss with weights, a metric."""

    def __init__(self, network):
        super().__init__()
        self.model = network
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))


def averaged(network):
    """A running mean of torch's own (``module.``, ``n_averaged``)."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9)).state_dict()


LAYOUTS = {
    "bare": lambda n: n.state_dict(),
    "timm's train.py": lambda n: {
        "epoch": 3,
        "arch": "tiny",
        "state_dict": n.state_dict(),
        "optimizer": torch.optim.SGD(n.parameters(), lr=0.1).state_dict(),
        "args": Namespace(lr=0.1, opt="sgd"),
    },
    "MONAI's CheckpointSaver": lambda n: {
        "model": n.state_dict(),
        "optimizer": torch.optim.Adam(n.parameters()).state_dict(),
        "trainer": {"epoch": 3, "iteration": 30},
    },
    "nnU-Net": lambda n: {"network_weights": n.state_dict(), "current_epoch": 3},
    "data parallel": lambda n: nn.DataParallel(n).state_dict(),
    "compiled": lambda n: OrderedDict(
        (f"_orig_mod.{k}", v) for k, v in n.state_dict().items()
    ),
    "Lightning": lambda n: {
        "state_dict": Lit(n).state_dict(),
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 1e-3},
        "callbacks": {},
    },
    "a running mean alone": averaged,
}
LEFT_OVER = {"Lightning": "loss.weight", "a running mean alone": "n_averaged"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_network(tmp_path, layout, dtype):
    network = build_network(TINY).to(dtype)
    old, new = tmp_path / "old.ckpt", tmp_path / "new.safetensors"
    torch.save(LAYOUTS[layout](network), old)
    card = import_checkpoint(old, new, card_of(TINY))
    found, wanted = load_file(new), network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], v.to(found[k].dtype)) for k, v in wanted.items())
    assert {v.dtype for v in found.values()} <= {torch.float32, torch.int64}
    left = LEFT_OVER.get(layout, "")
    total = len(wanted) + bool(left)
    assert f"Of {total} tensors {len(wanted)} are used." in card.notes
    assert ("Left out, no part of the network" in card.notes) == bool(left)
    assert left in card.notes


@pytest.fixture
def two():
    """A network and another, as its running mean."""
    return build_network(TINY), build_network(replace(TINY, seed=5))


@pytest.mark.parametrize(
    ("first", "second"),
    [("state_dict", "state_dict_ema"), ("model", "ema_model"), ("model", "ema")],
)
def test_weights_and_their_running_mean_are_asked_for(tmp_path, two, first, second):
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    network, mean = two
    torch.save({first: network.state_dict(), second: mean.state_dict()}, old)
    with pytest.raises(ValueError, match=rf"give --key {first} or --key {second}"):
        import_checkpoint(old, new, card_of(TINY))
    assert not new.exists()
    for key, wanted in ((first, network), (second, mean)):
        import_checkpoint(old, new, card_of(TINY), key=key)
        found = load_file(new)
        assert all(torch.equal(found[k], v) for k, v in wanted.state_dict().items())


@pytest.mark.parametrize(
    ("first", "second"), [("model", "ema_model"), ("online_model", "ema_model")]
)
@pytest.mark.parametrize("file", ["lightning", "safetensors"])
def test_a_running_mean_among_the_same_names_is_asked_for(
    tmp_path, two, first, second, file
):
    tensors = {
        f"{prefix}.{k}": v
        for prefix, network in zip((first, second), two, strict=True)
        for k, v in network.state_dict().items()
    }
    new = tmp_path / "new.safetensors"
    if file == "lightning":
        old = tmp_path / "old.ckpt"
        torch.save({"state_dict": tensors}, old)
    else:
        old = tmp_path / "old.safetensors"
        save_file(tensors, old)
    one, other = (first, second) if file == "lightning" else sorted((first, second))
    with pytest.raises(ValueError, match=rf"give --key {one} or --key {other}"):
        import_checkpoint(old, new, card_of(TINY))
    for key, wanted in zip((first, second), two, strict=True):
        import_checkpoint(old, new, card_of(TINY), key=key)
        found = load_file(new)
        assert all(torch.equal(found[k], v) for k, v in wanted.state_dict().items())
    with pytest.raises(ValueError, match=rf"'x', and no name .* but with .*{second}"):
        import_checkpoint(old, new, card_of(TINY), key="x")


def test_nothing_is_loaded_by_position(tmp_path):
    old, tensors = tmp_path / "old.pth", build_network(TINY).state_dict()
    torch.save({f"layer{i}": v for i, v in enumerate(tensors.values())}, old)
    with pytest.raises(ValueError, match="missing") as e:
        import_checkpoint(old, tmp_path / "new.safetensors", card_of(TINY))
    # All that is missing and all that is left over, not the first few.
    for name in (*tensors, *(f"layer{i}" for i in range(len(tensors)))):
        assert name in str(e.value)


def test_the_tumor_of_one_logit_is_its_sigmoid(tmp_path):
    network = Tiny()
    network.segmentation_head = nn.Conv2d(8, 1, 3, padding=1)
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    torch.save({"state_dict": network.state_dict()}, old)
    card = import_checkpoint(old, new, card_of(TINY))
    member = load_member(card_spec(card, new))
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        scaled = (pixels / 255 - member.mean) / member.std
        want = network.eval()(scaled).sigmoid()[:, 0]
    assert torch.allclose(member(pixels), want, atol=1e-6)


# --- several classes, by the command ---


@pytest.fixture(scope="module")
def of_three(tmp_path_factory):
    """A checkpoint of three classes, its network, and the command to bring it in."""
    folder = tmp_path_factory.mktemp("classes")
    three = ("stroma", "dcis", "invasive")
    network = build_network(replace(FPN, classes=three, tumor_classes=("dcis",)))
    torch.save({"state_dict": network.state_dict()}, folder / "old.ckpt")
    command = ["import-weights", str(folder / "old.ckpt"), "--architecture", "FPN"]
    command += ["--encoder", FPN.encoder, "--mpp", "1", "--patch-px", "64"]
    for name, value in FPN.options.items():
        command += ["--option", f"{name}={json.dumps(value)}"]
    return network.eval(), command


def test_the_classes_of_a_checkpoint_are_asked_for(of_three, tmp_path, capsys):
    command = [*of_three[1], "--out", str(tmp_path / "new.safetensors")]
    assert run_app(command) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "its last layer has 3 classes, not 2: name them in their order" in said
    assert "--classes NAME,NAME,... and --tumor-classes NAME,..." in said
    assert run_app([*command, "--classes", "stroma,dcis,invasive"]) == 2
    assert "must be of classes" in " ".join(capsys.readouterr().err.split())
    given = ["--classes", "stroma,dcis,invasive", "--tumor-classes", "dcis"]
    assert run_app([*command, *given, "--tumor-channel", "0"]) == 2
    assert "without --classes only" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_card_says_the_classes_and_tumor_is_their_sum(
    of_three, tmp_path, capsys, activation
):
    network, command = of_three
    new = tmp_path / "new.safetensors"
    tumor = ("dcis", "invasive") if activation == "softmax" else ("invasive",)
    given = ["--classes", "stroma, dcis, invasive", "--activation", activation]
    given += ["--tumor-classes", ",".join(tumor), "--license", "CC-BY-NC-4.0"]
    assert run_app([*command, "--out", str(new), *given]) == 0
    assert f"tumor is {' and '.join(tumor)}" in " ".join(
        capsys.readouterr().out.split()
    )
    card = read_card(new)
    assert card.classes == ("stroma", "dcis", "invasive")
    assert (card.tumor_classes, card.activation) == (tumor, activation)
    assert card.license == "CC-BY-NC-4.0"
    member = load_member(card_spec(card, new))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network((pixels / 255 - member.mean) / member.std)
    if activation == "softmax":
        want = logits.softmax(1)[:, 1:].sum(1)
    else:
        want = logits.sigmoid()[:, 2]
    assert torch.allclose(member(pixels), want, atol=1e-5)


def test_one_logit_is_not_taken_for_one_of_two_other_classes(tmp_path):
    network = build_network(FPN).state_dict()
    head = [k for k in network if k.startswith("segmentation_head")]
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    torch.save({**network, **{k: network[k][:1] for k in head}}, old)
    card = card_of(FPN, classes=("tumor", "stroma"), tumor_classes=("tumor",))
    with pytest.raises(ValueError, match="one logit, and --classes names 2: leave"):
        import_checkpoint(old, new, card)
    assert not new.exists()
