import json
from dataclasses import asdict, replace

import pytest

from digipath_ray.networks.card import (
    ModelCard,
    card_path,
    read_card,
    stated_by,
    write_card,
)
from digipath_ray.storage.files import file_digest

CARD = ModelCard(
    name="light",
    architecture="Unet",
    encoder="resnet18",
    options={"decoder_interpolation": "bilinear"},
    mpp=0.25,
    patch_px=512,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    training_slides=("tumor_001", "normal_001"),
    training_patients=("patient_000",),
    license="Apache-2.0",
    digest="0" * 64,
)


def test_a_card_comes_back_as_it_was_written(tmp_path):
    path = write_card(tmp_path / "light.v2.safetensors", CARD)
    assert path == tmp_path / "light.v2.json"
    assert read_card(tmp_path / "light.v2.safetensors") == CARD


def test_a_card_is_json_that_a_person_can_read(tmp_path):
    path = write_card(tmp_path / "light.safetensors", CARD)
    values = json.loads(path.read_text())
    assert values["classes"] == ["other", "tumor"]
    assert values["mpp"] == 0.25
    assert values["notes"] == ""


def test_notes_may_be_left_out(tmp_path):
    values = asdict(CARD)
    del values["notes"]
    card_path(tmp_path / "w.safetensors").write_text(json.dumps(values))
    assert read_card(tmp_path / "w.safetensors") == CARD


def test_a_missing_card_names_the_file_that_is_missing(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"no model card: .*w\.json is missing; 'digipath import-weights'",
    ):
        read_card(tmp_path / "w.safetensors")


@pytest.mark.parametrize("text", ["{", "\x80", "[1, 2]", '"a card"'])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    card_path(tmp_path / "w.safetensors").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"w\.json: (not valid JSON|must be a JSON)"):
        read_card(tmp_path / "w.safetensors")


OPTIONAL = {"notes", "classes", "threshold", "temperature", "training", "stain"}
OPTIONAL |= {"context_mpp_factor", "tumor_classes", "output", "activation"}
OPTIONAL |= {"output_stride", "border_px", "input_scale", "channel_order", "layout"}
OPTIONAL |= {"patch_multiple", "whole_classes", "slide_stain"}


@pytest.mark.parametrize("key", sorted(asdict(CARD).keys() - OPTIONAL))
def test_a_missing_key_is_named(tmp_path, key):
    values = asdict(CARD)
    del values[key]
    card_path(tmp_path / "w.safetensors").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"w\.json: key '{key}' is missing"):
        read_card(tmp_path / "w.safetensors")


def test_an_unknown_key_is_named(tmp_path):
    values = {**asdict(CARD), "magnification": 40}
    card_path(tmp_path / "w.safetensors").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"w\.json: unknown key 'magnification'"):
        read_card(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("encoder", ["resnet18"]),
        ("options", "bilinear"),
        ("mpp", "0.25"),
        ("mpp", 0),
        ("mpp", True),
        ("patch_px", 512.5),
        ("mean", [0.5, 0.5]),
        ("mean", 0.5),
        ("std", [0.5, 0.0, 0.5]),
        ("std", [0.5, None, 0.5]),
        ("classes", "tumor"),
        ("classes", ["tumor", "tumor"]),
        ("classes", []),
        ("tumor_classes", ["dcis"]),
        ("tumor_classes", []),
        ("tumor_classes", ["other", "tumor"]),
        ("output", "scores"),
        ("activation", "relu"),
        ("output_stride", 3),
        ("border_px", -1),
        ("input_scale", "-1..1"),
        ("channel_order", "RBG"),
        ("layout", "CHW"),
        ("patch_multiple", 0),
        ("training_slides", "tumor_001"),
        ("training_patients", [1]),
        ("license", None),
        ("digest", "0" * 63),
        ("digest", "G" * 64),
        ("notes", 1),
    ],
)
def test_a_value_of_the_wrong_kind_names_file_and_key(tmp_path, key, value):
    values = {**asdict(CARD), key: value}
    card_path(tmp_path / "w.safetensors").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"w\.json: {key} = .*must be"):
        read_card(tmp_path / "w.safetensors")


def test_a_card_that_is_wrong_cannot_be_made():
    with pytest.raises(ValueError, match="mpp = nan: must be a positive number"):
        replace(CARD, mpp=float("nan"))


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "file") == want


def test_several_classes_may_be_tumor(tmp_path):
    said = {"classes": ("stroma", "dcis", "tumor"), "tumor_classes": ("tumor", "dcis")}
    card = replace(CARD, **said)
    write_card(tmp_path / "w.safetensors", card)
    assert read_card(tmp_path / "w.safetensors") == card


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"activation": "sigmoid", "classes": ("a", "b", "c"),
          "tumor_classes": ("a", "b")}, "independent probabilities have no sum"),
        ({"output": "probabilities", "temperature": 2.0}, "it divides logits"),
    ],
)  # fmt: skip
def test_a_card_that_contradicts_itself_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        replace(CARD, **said)


def test_an_open_question_is_asked_until_it_is_answered(tmp_path):
    path = card_path(tmp_path / "w.onnx")
    asked = {"mpp": "how many um per px was it trained at?"}
    values = {**asdict(CARD), "mpp": None, "questions": asked}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"w\.json: mpp is null: answer .* um per px"):
        read_card(tmp_path / "w.onnx")
    path.write_text(json.dumps({**values, "mpp": CARD.mpp}))
    assert read_card(tmp_path / "w.onnx") == CARD


def test_pixels_as_they_are_stored_are_another_scale():
    card = replace(CARD, input_scale="0..255", mean=(0.0,) * 3, std=(1.0,) * 3)
    assert stated_by(card)["std"] == (1 / 255,) * 3
    assert stated_by(replace(card, input_scale="0..1"))["std"] == (1.0,) * 3
