"""Members from files: what they answer, and what is refused before slides are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.card import read_card
from digipath_ray.networks.from_file import load_network
from digipath_ray.networks.inspection import inspect_file
from digipath_ray.networks.onnx_network import OnnxNetwork
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weights import card_spec, load_member
from digipath_ray.stain.normalize import MACENKO_TARGET
from tests.file_members import FILES, WRITERS, Green, Strided, give_card
from tests.tiny import Tiny

KINDS = ["onnx", "exported"]
GRID = {"grid": {"downsample": 4, "stride_px": 32}}


def pixels(n: int = 3, side: int = 64) -> Tensor:
    random = np.random.default_rng(n)
    return torch.from_numpy(random.integers(0, 256, (n, 3, side, side), np.uint8))


@pytest.fixture(scope="module")
def green(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("green")
    return {
        kind: give_card(WRITERS[kind](Green(), folder / kind / f"green{FILES[kind]}"))
        for kind in KINDS
    }


def resolved(path: Path, **sections) -> RunConfig:
    return resolve({**GRID, **sections}, weights=path)


def copied(path: Path, folder: Path, **card) -> Path:
    """The same file elsewhere, with another card."""
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    return give_card(copy, **card)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_a_member(green, kind):
    config = resolved(green[kind])
    (spec,) = config.members
    assert (spec.architecture, spec.output) == (kind, "probabilities")
    member = load_member(spec)
    patches = pixels()
    assert torch.allclose(member(patches), patches[:, 1] / 255, atol=1e-6)
    assert len(member(patches[:0])) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_what_the_network_says_that_it_was_made_of(tmp_path, kind):
    torch.manual_seed(0)
    network = Tiny()
    path = WRITERS[kind](network, tmp_path / f"tiny{FILES[kind]}")
    give_card(path, output="logits", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    found = load_member(resolved(path).members[0])(pixels())
    scaled = pixels().float() / 255
    scaled = (scaled - torch.tensor((0.5, 0.4, 0.3)).reshape(3, 1, 1)) / torch.tensor(
        (0.2, 0.3, 0.4)
    ).reshape(3, 1, 1)
    with torch.no_grad():
        want = network(scaled).softmax(1)[:, 1]
    assert torch.allclose(found, want, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_one_patch_at_a_time_runs_one_by_one(tmp_path, kind, caplog):
    path = give_card(WRITERS[kind](Green(), tmp_path / f"g{FILES[kind]}", batch=1))
    member = load_member(resolved(path).members[0])
    assert "foreign takes one patch at a time" in caplog.text
    assert torch.allclose(member(pixels()), pixels()[:, 1] / 255, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_two_patches_is_filled_up(tmp_path, kind):
    path = give_card(WRITERS[kind](Green(), tmp_path / f"g{FILES[kind]}", batch=2))
    member = load_member(resolved(path).members[0])
    assert torch.allclose(member(pixels()), pixels()[:, 1] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("says", "channel"),
    [
        ({"mean": (0.0, 0.5, 0.0), "std": (1.0, 0.5, 1.0)}, None),
        ({"input_scale": "0..255", "std": (255.0,) * 3}, 1),
        ({"classes": ("tumor", "other")}, -1),
    ],
)
def test_what_the_card_says_of_the_input_and_the_classes(
    green, tmp_path, says, channel
):
    path = copied(green["onnx"], tmp_path, **says)
    spec = card_spec(read_card(path), path)
    found = load_member(spec)(pixels())
    value = pixels()[:, 1] / 255
    wanted = {None: 2 * value - 1, 1: value, -1: 1 - value}[channel]
    assert torch.allclose(found, wanted, atol=1e-6)


def test_blue_may_come_first_and_channels_last(tmp_path):
    class Last(nn.Module):
        def forward(self, picture: Tensor) -> Tensor:  # [B, H, W, (B, G, R)]
            return torch.cat([1 - picture[..., :1], picture[..., :1]], dim=3)

    class First(nn.Module):  # the writers' example is channels first
        def forward(self, picture: Tensor) -> Tensor:
            return Last()(picture)

    path = tmp_path / "last.pt2"
    program = torch.export.export(First(), (torch.zeros(1, 64, 64, 3),))
    torch.export.save(program, path)
    give_card(path, layout="NHWC", channel_order="BGR")
    found = load_member(resolved(path).members[0])(pixels())
    assert torch.allclose(found, pixels()[:, 2] / 255, atol=1e-6)

    give_card(path)
    with pytest.raises(ValueError, match=r'no picture of 3 channels .*"layout"'):
        resolved(path)


class Three(nn.Module):
    """Three classes: red, green and what is left of one third each."""

    def forward(self, picture: Tensor) -> Tensor:
        red, green = picture[:, :1] / 3, picture[:, 1:2] / 3
        return torch.cat([1 - red - green, red, green], dim=1)


def test_tumor_is_the_sum_of_its_classes(tmp_path):
    path = WRITERS["exported"](Three(), tmp_path / "three.pt2")
    names = {"classes": ("stroma", "dcis", "tumor")}
    give_card(path, tumor_classes=("tumor", "dcis"), **names)
    found = load_member(resolved(path).members[0])(pixels())
    want = (pixels()[:, 0] + pixels()[:, 1].float()) / 255 / 3
    assert torch.allclose(found, want, atol=1e-6)


def test_a_built_network_may_have_several_classes(tmp_path):
    from tests.members import LIGHT, write_member

    names = {"classes": ("a", "b", "c"), "tumor_classes": ("b", "c")}
    spec = replace(LIGHT, **names)
    path = write_member(tmp_path, spec, patch_px=64, **names)
    (found,) = resolved(path).members
    assert found.tumor_classes == ("b", "c")
    member = load_member(found)
    with torch.no_grad():
        classes = member.answers(pixels()).softmax(1)
    assert classes.shape[1] == 3
    assert torch.allclose(member(pixels()), 1 - classes[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match=r"classes = .*a fit knows"):
        resolve_recipe({"members": [{"name": "x", "architecture": "Unet", **names}]})


def test_slides_are_brought_to_the_stains_that_a_card_says(green, tmp_path):
    path = copied(green["onnx"], tmp_path, slide_stain="macenko")
    config = resolved(path)
    assert config.slide.stain == "macenko"
    assert config.members[0].stain_reference == MACENKO_TARGET.values
    with pytest.raises(ValueError, match=r"slide.stain = 'none', but the card of memb"):
        resolved(path, slide={"stain": "none"})
    forced = resolve({**GRID, "slide": {"stain": "none"}}, weights=path, force=True)
    assert forced.slide.stain == "none"
    other = tmp_path / "other.pt2"
    other.write_bytes(green["exported"].read_bytes())
    give_card(other, name="other")
    with pytest.raises(ValueError, match=r"'macenko', that of other does not say"):
        resolved(tmp_path)
    assert resolved(tmp_path, slide={"stain": "macenko"}).slide.stain == "macenko"
    give_card(other, name="other", slide_stain="none")
    with pytest.raises(ValueError, match="they cannot run together"):
        resolved(tmp_path)


# What is refused before a slide is read


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"output": "logits"}, '"output": "probabilities" in its card'),
        ({"classes": ("a", "b", "tumor")}, "one channel for each of its classes"),
        ({"output_stride": 2}, "another output_stride"),
        ({"std": (0.1,) * 3}, "no probabilities"),
        ({"mean": (0.5,) * 3}, "no probabilities"),
        ({"patch_multiple": 48}, r"multiples of 48 px: --patch-px 48 or 96"),
        ({"digest": "0" * 64}, "was changed, or its card"),
        ({"context_mpp_factor": 2}, "sees no context"),
        ({"options": {"width": 3}}, "unknown option of onnx 'width'"),
        ({"options": {"output": "tumor"}}, "its outputs are answer"),
        ({"architecture": "exported"}, r"no \.pt2 file"),
        (
            {"architecture": "Unet", "encoder": "resnet18"},
            r'architecture = "onnx" in its card, not "Unet"',
        ),
    ],
)
def test_a_card_that_contradicts_its_file_is_refused(green, tmp_path, says, message):
    path = copied(green["onnx"], tmp_path, **says)
    with pytest.raises(ValueError, match=message):
        resolved(path)


def test_an_output_stride_that_the_answer_does_not_grow_by_is_refused(tmp_path):
    grid = {"downsample": 4, "stride_px": 16}
    # 16 px to 64 could be its middle, at a stride of 1.
    path = WRITERS["onnx"](Strided(), tmp_path / "strided.onnx")
    with pytest.raises(
        ValueError, match=r'"output_stride": 4 in its card, not 1;.* 0 px'
    ):
        resolved(give_card(path, border_px=24), grid=grid)
    member = resolved(give_card(path, output_stride=4)).members[0]
    assert member.output_stride == 4
    middle = WRITERS["onnx"](Green(1, 24), tmp_path / "middle.onnx")
    assert resolved(give_card(middle, border_px=24), grid=grid).members


class GreenAlone(nn.Module):
    """Answers with its input's green alone."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels[:, 1:2].contiguous()


def test_logits_that_look_like_probabilities_are_warned_of(tmp_path, caplog):
    path = WRITERS["onnx"](GreenAlone(), tmp_path / "alone.onnx")
    says = {"output": "logits", "activation": "sigmoid", "classes": ("tumor",)}
    resolved(give_card(path, **says, mean=(0.5,) * 3))
    assert "though its card says logits" not in caplog.text  # half of them are below 0
    resolved(give_card(path, **says))
    assert "though its card says logits" in caplog.text


def test_another_size_of_patches_is_refused(green, tmp_path):
    path = copied(green["exported"], tmp_path, patch_px=128)
    with pytest.raises(ValueError, match="takes patches of 64 px, not 128"):
        resolved(path)


class Odd(nn.Module):
    """Answers with NaN, at random, or by what else is in the batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, picture: Tensor) -> Tensor:
        green = picture[:, 1:2]
        if self.how == "nan":
            green = torch.log(green - 2)
        elif self.how == "random":
            green = green * torch.rand_like(green)
        elif self.how == "batch":
            green = green * picture.mean()
        return torch.cat([1 - green, green], dim=1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "of its answer to glass are NaN"),
        ("random", "differs by .* in another batch"),
        ("batch", "differs by .* in another batch"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_nobody_can_use_are_refused(tmp_path, kind, how, message):
    path = give_card(WRITERS[kind](Odd(how), tmp_path / f"odd{FILES[kind]}"))
    with pytest.raises(ValueError, match=rf"member foreign, .*{message}"):
        resolved(path)


class Chosen(nn.Module):
    """Answers with classes that are chosen already, or probabilities of something."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, picture: Tensor) -> Tensor:
        if self.how == "argmax":
            return picture.argmax(1, keepdim=True)
        if self.how == "above":
            return picture[:, 1:2] > 0.5
        return picture[:, 1:2].softmax(int(self.how))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("argmax", "int64.*before classes are chosen"),
        ("above", "bool.*before classes are chosen"),
        ("2", "adds up to 1 over the patch's height: a softmax over the wrong"),
        ("3", "adds up to 1 over the patch's width: a softmax over the wrong"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_are_no_probabilities_of_classes_are_refused(
    tmp_path, kind, how, message
):
    path = WRITERS[kind](Chosen(how), tmp_path / f"c{FILES[kind]}")
    outputs = ("logits",) if how in ("argmax", "above") else ("probabilities",)
    for output in outputs:
        says = {"activation": "sigmoid", "classes": ("tumor",), "output": output}
        with pytest.raises(ValueError, match=message):
            resolved(give_card(path, **says))
    with pytest.raises(ValueError, match=message):
        inspect_file(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_an_exported_network_runs_in_its_own_numbers(tmp_path, dtype):
    network = nn.Conv2d(3, 1, 1).to(dtype).eval()
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    given = torch.zeros(2, 3, 64, 64, dtype=dtype)
    program = torch.export.export(network, (given,), dynamic_shapes=shapes)
    path = tmp_path / "n.pt2"
    torch.export.save(program, path)
    says = {"activation": "sigmoid", "classes": ("tumor",), "output": "logits"}
    found = load_member(resolved(give_card(path, **says)).members[0])(pixels())
    with torch.no_grad():
        want = network((pixels().float() / 255).to(dtype)).float().sigmoid()[:, 0]
    assert found.dtype == torch.float32
    assert torch.allclose(found, want, atol=1e-3)


def test_an_exported_network_of_whole_numbers_is_refused(tmp_path):
    class Scaled(nn.Module):
        def forward(self, picture: Tensor) -> Tensor:
            return picture[:, 1:2].float() / 255

    given = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    torch.export.save(torch.export.export(Scaled(), (given,)), tmp_path / "n.pt2")
    with pytest.raises(
        ValueError, match=r"type torch\.uint8: export it with a float32"
    ):
        resolved(give_card(tmp_path / "n.pt2"))


def split(path: Path) -> Path:
    """A model that answers with a list of patches, in place of a batch."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, "h", "w"])
    answer = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=0, keepdims=0)
    graph = helper.make_graph([node], "g", [given], [answer])
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return give_card(path)


def test_an_answer_that_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"of type seq\(tensor\(float\)\)"):
        resolved(split(tmp_path / "s.onnx"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([0, 3, 0, 0], "takes a size of 0 as it stands"),
        (["b", 4, "h", "w"], "export it for R, G, B; or"),
        ([1, 3, 3, 3], "no picture of 3 channels"),
    ],
)
def test_an_input_that_is_no_picture_is_refused(tmp_path, shape, message):
    path = handmade(tmp_path / "m.onnx", shape=shape)
    with pytest.raises(ValueError, match=message):
        resolved(path)
    with pytest.raises(ValueError, match=message):
        inspect_file(path)


def test_a_side_that_is_fixed_is_that_of_patches(tmp_path):
    path = handmade(tmp_path / "m.onnx", shape=["b", 3, "h", 64])
    assert inspect_file(path).known["patch_px"] == 64


def test_a_sum_of_rounded_probabilities_is_cut_to_one():
    answer = torch.full((1, 3, 4, 4), 0.503)
    answer[:, 0] = 0
    both = Answer(channels=3, tumor=(1, 2), probabilities=True)
    assert (both.posterior(answer, (4, 4)) == 1).all()
    assert (both.posterior(answer * 1.1, (4, 4)) > 1.1).all()  # refused by its name


def test_a_file_cannot_be_fitted(green):
    row = {"name": "x", "architecture": "onnx", "weights": str(green["onnx"])}
    with pytest.raises(ValueError, match="a network from a file is fixed"):
        resolve_recipe({"members": [row]})
    row = {"name": "x", "architecture": "tests.tiny:Tiny"}
    with pytest.raises(ValueError, match=r"a fit starts from \.safetensors"):
        resolve_recipe({"members": [row]}, init=green["onnx"])


@pytest.mark.parametrize("weights", ["random", "imagenet"])
def test_a_files_architecture_needs_a_file(weights):
    row = {"name": "x", "architecture": "onnx", "weights": weights}
    with pytest.raises(
        ValueError, match=r"network of a \.onnx file: name it as weights"
    ):
        resolve({**GRID, "members": [row]})


def handmade(
    path: Path, *, opset: int = 17, inputs=1, element=TensorProto.FLOAT, shape=None
):
    """An ONNX model of one node, of as many inputs."""
    given = [
        helper.make_tensor_value_info(f"x{i}", element, shape or ["b", 3, "h", "w"])
        for i in range(inputs)
    ]
    answer = helper.make_tensor_value_info("y", element, None)
    node = helper.make_node("Sum", [f"x{i}" for i in range(inputs)], ["y"])
    graph = helper.make_graph([node], "g", given, [answer])
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return give_card(path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"opset": 999}, r"cannot load it \(opset ai\.onnx 999\)"),
        ({"inputs": 2}, r"it takes 2 inputs \(x0, x1\)"),
        ({"element": TensorProto.DOUBLE}, "export it with a float32 or float16"),
    ],
)
def test_a_model_that_cannot_be_a_member_is_refused(tmp_path, made, message):
    path = handmade(tmp_path / "m.onnx", **made)
    with pytest.raises(ValueError, match=message):
        resolved(path)


def test_external_data_are_part_of_a_model(green, tmp_path):
    model = onnx.load(green["onnx"])
    path = tmp_path / "m.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert (tmp_path / "m.data").stat().st_size
    give_card(path)
    (spec,) = resolved(path).members
    assert torch.allclose(load_member(spec)(pixels()), pixels()[:, 1] / 255, atol=1e-6)

    data = bytearray((tmp_path / "m.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m.data").write_bytes(data)
    with pytest.raises(ValueError, match="the file was changed"):
        resolved(path)
    with pytest.raises(ValueError, match="not the file the run was set up with"):
        load_member(spec)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ValueError, match=r"external data m\.data are missing"):
        resolved(path)


def test_an_exported_members_operations_are_counted_and_an_onnx_members_not(
    green, tmp_path, caplog
):
    members = [
        {"name": name, "weights": str(green[kind])}
        for name, kind in (("z", "exported"), ("a", "onnx"))
    ]
    config = resolve({**GRID, "members": members, "ensemble": {"cascade": True}})
    assert [m.name for m in config.members] == ["z", "a"]
    assert "in the order in which they are named: z, a" in caplog.text


def test_a_gpu_that_onnxruntime_does_not_use_is_said(green, tmp_path, caplog):
    path = copied(green["onnx"], tmp_path)
    network = OnnxNetwork(path, torch.device("cuda"), output=None)
    on_cpu = "CUDAExecutionProvider" not in network.session.get_providers()
    assert ("runs on the CPU: this onnxruntime has no CUDA" in caplog.text) == on_cpu


def test_without_onnxruntime_it_says_what_to_install(green, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    spec = MemberSpec(name="x", architecture="onnx", weights=str(green["onnx"]))
    with pytest.raises(ValueError, match=r"pip install 'digipath_ray\[onnx\]'"):
        load_network(spec, green["onnx"], torch.device("cpu"))
