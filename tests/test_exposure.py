from pathlib import Path

import pytest
from safetensors.torch import save_file

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.networks.seen_slides import Exposure, overlap_warning, read_exposure
from digipath_ray.storage.files import file_digest


def card(name: str, slides: tuple[str, ...], patients: tuple[str, ...]) -> ModelCard:
    return ModelCard(
        name=name,
        architecture="Unet",
        encoder="resnet18",
        options={},
        mpp=0.5,
        patch_px=256,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        training_slides=slides,
        training_patients=patients,
        license="CC0-1.0",
        digest="0" * 64,
    )


EXPOSURE = Exposure(
    cards={"a": card("a", ("s1",), ("p1",)), "b": card("b", ("s2", "s3"), ())}
)


@pytest.mark.parametrize(
    ("slide_id", "patient_id", "seen"),
    [
        ("s1", None, ("a",)),
        ("s9", "p1", ("a",)),  # another slide of a patient it has seen
        ("s2", "p1", ("a", "b")),
        ("s3", "p3", ("b",)),
        ("s9", "p9", ()),
        ("s9", None, ()),
    ],
)
def test_a_slide_is_seen_itself_or_by_its_patient(slide_id, patient_id, seen):
    assert EXPOSURE.seen_by(slide_id, patient_id) == seen


def test_a_slide_is_seen_under_whatever_name_it_has_now():
    seen = ModelCard(
        **{**vars(card("a", ("s1",), ())), "training": {"slides": ["9-ab"]}}
    )
    exposure = Exposure(cards={"a": seen, "b": card("b", ("s2",), ())})
    assert exposure.seen_by("renamed", None, "9-ab") == ("a",)
    assert exposure.seen_by("renamed", None, "9-cd") == ()
    assert exposure.seen_by("renamed", None) == ()


def test_what_members_have_seen_is_in_the_cards_of_their_weights(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({}, path)
    write_card(
        path, ModelCard(**{**vars(card("a", ("s1",), ())), "digest": file_digest(path)})
    )
    members = [
        MemberSpec(name="a", architecture="Unet", weights=str(path)),
        MemberSpec(name="b", architecture="Unet", weights="random"),
    ]
    exposure = read_exposure(members)
    assert exposure.cards["a"].training_slides == ("s1",)
    assert "b" not in exposure.cards


def test_overlap_is_counted_in_words():
    rows = [
        SlideRow(slide_id="s1", path="x", patient_id="p1"),
        SlideRow(slide_id="s4", path="x", patient_id="p1"),
        SlideRow(slide_id="s5", path="x", patient_id="p5"),
    ]
    told = overlap_warning(rows, EXPOSURE)
    assert told.startswith("2 of 3 slides, or other slides of their patients")
    assert "--out-of-fold" in told
    assert overlap_warning(rows[2:], EXPOSURE) is None
