"""Programs of torch.export are run without its loader, which can run code."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from digipath_ray.networks.exported import ExportedNetwork
from digipath_ray.networks.exported_file import read_program
from tests.file_members import Green, write_exported
from tests.tiny import Tiny

GRAPH = "models/model.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exported(Tiny(), tmp_path_factory.mktemp("p") / "tiny.pt2")


def rewrite(path: Path, out: Path, change) -> Path:
    """A copy of an archive whose parts, name -> bytes, are changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"tiny/{name}", content)
    return out


def with_graph(change):
    """A change of the graph's JSON."""

    def changed(parts: dict[str, bytes]) -> None:
        graph = json.loads(parts[GRAPH])
        change(graph)
        parts[GRAPH] = json.dumps(graph).encode()

    return changed


def set_target(name: str):
    def change(whole):
        whole["graph_module"]["graph"]["nodes"][2]["target"] = name

    return with_graph(change)


def test_a_program_says_what_torch_says(program):
    found = ExportedNetwork(read_program(program))
    assert found.program.sizes == ((1, 64), 3, 64, 64)
    torch.manual_seed(1)
    pixels = torch.rand(3, 3, 64, 64)
    want = torch.export.load(program).module()(pixels)
    assert torch.equal(found(pixels), want)


class Sizes(nn.Module):
    """Numbers that follow from sizes, several outputs of one node, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.full((1,), 0.25)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        red, green, _ = pixels.split(1, dim=1)
        small = nn.functional.adaptive_avg_pool2d(green, 2)
        side = pixels.shape[-1] // 2
        large = nn.functional.interpolate(small, size=(2 * side, 2 * side))
        large = large.masked_fill(large > 0.9, float("-inf")).clamp(min=0.0)
        top, _ = torch.max(red, dim=1, keepdim=True)
        return torch.cat([top.double().float(), large + self.offset], dim=1)


def test_sizes_are_computed_and_weights_may_share_memory(tmp_path):
    path = tmp_path / "s.pt2"
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    pixels = torch.rand(2, 3, 32, 32)
    program = torch.export.export(Sizes(), (pixels,), dynamic_shapes=(any_size,))
    torch.export.save(program, path)
    found = ExportedNetwork(read_program(path))
    for size in ((1, 3, 32, 32), (3, 3, 48, 48)):
        torch.manual_seed(0)
        pixels = torch.rand(size)
        assert torch.equal(found(pixels), Sizes()(pixels))


def test_it_runs_on_torchs_device_for_shapes(program):
    found = ExportedNetwork(read_program(program)).to("meta")
    assert found(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 2, 64, 64)


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.own.run.default",
        "torch.ops.aten._sparse_csr_tensor_unsafe.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.__class__.mro",
        "_operator.methodcaller",
        "math.__loader__",
        "eval",
        "#ext:anything",
    ],
)
def test_what_is_no_operator_of_torch_is_refused(program, tmp_path, target):
    path = rewrite(program, tmp_path / "m.pt2", set_target(target))
    with pytest.raises(ValueError, match="no operator"):
        ExportedNetwork(read_program(path))


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_what_torchs_own_loader_would_run_is_not(program, tmp_path):
    mark = tmp_path / "ran"

    def plant(parts: dict[str, bytes]) -> None:
        parts["data/sample_inputs/model.pt"] = pickle.dumps(Bomb(mark))
        whole = json.loads(parts[GRAPH])
        code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
        for meta in whole["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code
        whole["guards_code"] = [code]
        parts[GRAPH] = json.dumps(whole).encode()

    path = rewrite(program, tmp_path / "m.pt2", plant)
    ExportedNetwork(read_program(path))(torch.rand(1, 3, 64, 64))
    assert not mark.exists()


def test_tensors_that_are_pickles_are_refused(program, tmp_path):
    config = "data/weights/model_weights_config.json"

    def say_pickle(parts: dict[str, bytes]) -> None:
        said = json.loads(parts[config])
        said["config"]["encoder.0.weight"]["use_pickle"] = True
        parts[config] = json.dumps(said).encode()

    path = rewrite(program, tmp_path / "m.pt2", say_pickle)
    with pytest.raises(ValueError, match=r"encoder\.0\.weight is stored as a pickle"):
        read_program(path)
    path = rewrite(program, tmp_path / "o.pt2", lambda parts: parts.pop(config))
    with pytest.raises(ValueError, match="its weights are a pickle"):
        read_program(path)


def test_tensors_beyond_their_bytes_are_refused(program, tmp_path):
    path = rewrite(
        program,
        tmp_path / "m.pt2",
        lambda parts: parts.update({"data/weights/weight_0": b"1234"}),
    )
    with pytest.raises(ValueError, match=r"m\.pt2: a damaged program"):
        read_program(path)


def test_another_version_of_the_format_is_refused(program, tmp_path):
    later = with_graph(lambda whole: whole["schema_version"].update(major=9))
    path = rewrite(program, tmp_path / "m.pt2", later)
    with pytest.raises(ValueError, match="version 9 of torch's format, not 8"):
        read_program(path)


@pytest.mark.parametrize("pickled", [True, False])
def test_torchscript_and_pickles_are_refused(tmp_path, pickled):
    path = tmp_path / "net.pt2"
    if pickled:
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"net\.pt2: .*torch\.export\.save"):
        read_program(path)


def test_inputs_are_counted(tmp_path):
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    path = tmp_path / "two.pt2"
    pixels = torch.zeros(1, 3, 8, 8)
    torch.export.save(torch.export.export(Two(), (pixels, pixels)), path)
    with pytest.raises(ValueError, match="it takes 2 inputs: a member takes one"):
        read_program(path)


def test_a_network_in_training_is_refused(tmp_path):
    path = tmp_path / "t.pt2"
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    program = torch.export.export(network, (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, path)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) before"):
        read_program(path)


def test_green_is_green(tmp_path):
    found = ExportedNetwork(read_program(write_exported(Green(), tmp_path / "g.pt2")))
    pixels = torch.rand(1, 3, 64, 64)
    assert torch.equal(found(pixels)[:, 1], pixels[:, 1])
