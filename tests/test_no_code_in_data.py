"""Data never runs code: no loader of the package, or of its libraries, unpickles it.

The source is searched for what makes objects of data; files with code in them are given
to every reader of a kind of file that could hold some.
"""

import ast
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from digipath_ray.networks.checkpoint import read_checkpoint
from digipath_ray.outcome.metastasis.model import load_stage_model
from digipath_ray.storage.files import read_table
from tests.runs import write_slide

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "digipath_ray").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
BUILTINS = {"eval", "exec", "compile", "__import__"}
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve",
            "joblib", "jsonpickle"}  # fmt: skip
LOADS = {"load", "loads", "Unpickler", "open"}
REFUSED = {
    ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
    ("pd", "read_pickle"), ("pandas", "read_pickle"), ("os", "system"),
    ("os", "popen"), ("keras", "load_model"), ("models", "load_model"),
    ("torch", "jit"), ("torch", "hub"), ("torch", "export"), ("np", "fromregex"),
    ("ast", "parse"),
}  # fmt: skip


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines of a module that would make objects, or run commands, of data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner, name = node.value.id, node.attr
            if (owner, name) in REFUSED or (owner in PICKLERS and name in LOADS):
                yield node.lineno, f"{owner}.{name}"
        if isinstance(node, ast.ImportFrom) and node.module in PICKLERS:
            yield node.lineno, f"from {node.module} import"
        if isinstance(node, ast.Call):
            yield from dangers_of_call(node)


def dangers_of_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    given = {word.arg: word.value for word in node.keywords}
    says = {name: getattr(value, "value", None) for name, value in given.items()}
    name = ast.unparse(node.func)
    if isinstance(node.func, ast.Name) and name in BUILTINS:
        yield node.lineno, name
    if name == "torch.load" and says.get("weights_only") is not True:
        yield node.lineno, "torch.load without weights_only=True"
    if name.endswith("skops.io.load") and "trusted" not in given:
        yield node.lineno, "skops.io.load without the types to trust"
    for flag in ("shell", "allow_pickle"):
        if flag in given and says[flag] is not False:
            yield node.lineno, f"{name}({flag}=...)"


def test_the_source_makes_no_objects_of_data() -> None:
    assert len(SOURCES) > 250
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in SOURCES
        for line, what in dangers(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)", "exec(x)", "__import__(x)", "pickle.load(f)", "pickle.loads(x)",
        "pickle.Unpickler(f)", "from pickle import loads", "marshal.loads(x)",
        "joblib.load(f)", "yaml.load(f)", "pd.read_pickle(f)", "torch.load(f)",
        "torch.load(f, weights_only=False)", "torch.jit.load(f)", "os.system(x)",
        "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)",
        "torch.export.load(f)", "subprocess.run(x, shell=wanted)", "skops.io.load(f)",
    ],
)  # fmt: skip
def test_the_search_finds_what_would(line: str) -> None:
    assert list(dangers(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "network.eval()", "re.compile(x)", "torch.load(f, weights_only=True)",
        "np.load(f, allow_pickle=False)", "pickle.UnpicklingError", "yaml.safe_load(f)",
        "skops.io.load(f, trusted=types)", "json.loads(x)",
    ],
)  # fmt: skip
def test_the_search_finds_nothing_else(line: str) -> None:
    assert list(dangers(ast.parse(line))) == []


# Files with code in them


class Bomb:
    """Unpickled, it makes a file: code that a stranger's data would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that a bomb makes; that a bomb works is checked, too."""
    path = tmp_path / "ran"
    pickle.loads(pickle.dumps(Bomb(path)))
    path.unlink()
    yield path
    assert not path.exists()


def write_bomb_table(path: Path, mark: Path, *, nested: bool = False) -> Path:
    """A manifest whose column path is pickles, by Ray's name for such a column.

    It says so in its metadata alone, so that it is read as bytes where Ray Data is not
    imported.
    """
    name = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object",
            b"ARROW:extension:metadata": b""}  # fmt: skip
    held = pa.array([pickle.dumps(Bomb(mark))], pa.large_binary())
    field = pa.field("path", pa.large_binary(), metadata=name)
    if nested:
        held = pa.StructArray.from_arrays([held], fields=[field])
        field = pa.field("path", held.type)
    schema = pa.schema([pa.field("slide_id", pa.string()), field])
    pq.write_table(pa.table([pa.array(["x"]), held], schema=schema), path)
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_a_table_of_pickles_is_refused(
    tmp_path: Path, mark: Path, nested: bool
) -> None:
    from ray.data.extensions import ArrowPythonObjectType

    with pytest.raises(pa.ArrowKeyError):  # Ray has registered it
        pa.register_extension_type(ArrowPythonObjectType())
    table = write_bomb_table(tmp_path / "m.parquet", mark, nested=nested)
    with pytest.raises(ValueError, match=r"column path is of the extension type"):
        read_table(table)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "train", "view"])
def test_no_command_runs_the_code_of_a_manifest(
    tmp_path: Path, mark: Path, command: str
) -> None:
    table = str(write_bomb_table(tmp_path / "m.parquet", mark))
    out = ["--out", str(tmp_path / "out")]
    given = [table, *out, "--mpp", "1", "--patch-px", "64"]
    if command == "view":
        given = [table, "--no-browser"]
    # Ray Data is imported first, as in a worker: else a column is mere bytes.
    script = (
        "import ray.data, sys; from digipath_ray.cli.app import run_app; "
        "sys.exit(run_app(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, command, *given],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "local"},
        check=False,
    )
    assert ran.returncode in (1, 2), ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_checkpoint_with_code_is_refused(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"state_dict": Bomb(mark)}, path)
    with pytest.raises(ValueError, match=r"old\.pth: not a PyTorch file of tensors"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match=r"old\.pth"):
        read_checkpoint(path)


def test_a_stage_model_with_other_types_is_refused(tmp_path: Path, mark: Path) -> None:
    import skops.io

    path = tmp_path / "model.skops"
    skops.io.dump({"model": Path.touch, "bomb": Bomb(mark)}, path)
    with pytest.raises(ValueError, match=r"model\.skops"):
        load_stage_model(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match=r"model\.skops"):
        load_stage_model(path)


@pytest.mark.parametrize("suffix", ["tif", "svs", "png", "dcm", "ndpi", "mrxs"])
def test_a_slide_that_is_a_pickle_is_a_bad_slide(
    tmp_path: Path, mark: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from digipath_ray.cli.app import run_app

    path = tmp_path / f"s.{suffix}"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    assert run_app(["info", str(path), "--slide-mpp", "1"]) == 1
    assert "unusable" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["npy", "npz", "tif", "geojson", "xml", "png"])
def test_an_annotation_that_is_a_pickle_is_refused(
    tmp_path: Path, mark: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from digipath_ray.cli.app import run_app

    slide = write_slide(tmp_path / "s.tif")
    drawn = tmp_path / f"a.{suffix}"
    bomb = pickle.dumps(Bomb(mark))
    # An array of objects, as numpy stores it: a header and a pickle.
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    array = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bomb
    drawn.write_bytes(array if suffix == "npy" else bomb)
    if suffix == "npz":
        with zipfile.ZipFile(drawn, "w") as archive:
            archive.writestr("mask.npy", array)
    assert run_app(["info", str(slide), "--annotation", str(drawn)]) in (1, 2)
    said = capsys.readouterr()
    assert drawn.name in said.out + said.err
