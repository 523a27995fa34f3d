"""What an ONNX file says of itself, held against the onnx package's own reader."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from digipath_ray.networks.onnx_file import read_header
from digipath_ray.networks.weight_files import weights_digest, weights_file
from digipath_ray.storage.files import file_digest, text_digest


def make_model(*tensors: TensorProto, nodes=(), opset: int = 17) -> onnx.ModelProto:
    pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [pixels],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
        list(tensors),
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 3)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=8, producer_name="here"
    )


def lying_in(location: str, name: str = "w") -> TensorProto:
    """A tensor whose numbers lie in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_a_header_is_read(tmp_path):
    inside = helper.make_node("Constant", [], ["c"], value=lying_in("b.data", ""))
    branch = helper.make_graph([inside], "b", [], [])
    condition = helper.make_node("If", ["x"], ["z"], then_branch=branch)
    tensors = [lying_in("a/w.data"), lying_in("a/w.data", "v")]
    model = make_model(*tensors, nodes=[condition])
    header = read_header(save(model, tmp_path / "m.onnx"))
    assert header.producer == "here"
    assert header.opsets == {"": 17, "own": 3}
    assert header.external == ("a/w.data", "b.data")


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.data", "a/../../w.data", "C:w.data", "a\\w.data", "", "."],
)
def test_data_outside_the_models_folder_are_refused(tmp_path, location):
    path = save(make_model(lying_in(location)), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m\.onnx: its external data .* outside its"):
        read_header(path)


def test_what_is_no_onnx_is_refused(tmp_path):
    whole = make_model(lying_in("w.data")).SerializeToString()
    path = tmp_path / "m.onnx"
    for content in (b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 40, whole[:-7]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"m\.onnx: not an ONNX model"):
            read_header(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="an empty file"):
        read_header(path)


def test_the_digest_is_of_all_files(tmp_path):
    alone = save(make_model(), tmp_path / "alone.onnx")
    assert weights_digest(alone) == file_digest(alone)

    path = save(make_model(lying_in("w.data")), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"external data w\.data are missing: copy"):
        weights_digest(path)
    data = tmp_path / "w.data"
    data.write_bytes(b"1234" * 4)
    found = weights_digest(path)
    assert found == text_digest(f"{file_digest(path)}\n{file_digest(data)}")
    data.write_bytes(b"1235" * 4)
    assert weights_digest(path) != found


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pkl", "net.h5"])
def test_other_kinds_are_refused_with_the_way_to_convert(name):
    with pytest.raises(ValueError, match=r"torch\.onnx\.export .*torch\.export\.save"):
        weights_file(name)
