"""Weights of encoders from files of other makers: every tensor is accounted for."""

import json
import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch.nn import functional

from digipath_ray.networks.build import build_network
from digipath_ray.networks.encoder_file import encoder_license, load_encoder
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.training.start import start_network
from tests.transformers import VIT16, dpt

SCALED = dpt("vit_tiny_patch16_224", init_values=1e-5)
GATED = dpt(
    "vit_small_patch14_dinov2",
    mlp_layer="SwiGLUPacked",
    act_layer="silu",
    mlp_ratio=16 / 3,
)
REGISTERS = dpt("vit_small_patch14_reg4_dinov2")


def body(network):
    """The transformer's tensors by timm's names, without its head."""
    tensors = network.encoder.model.state_dict()
    return {k: v.clone() for k, v in tensors.items() if not k.startswith("head.")}


@pytest.fixture(scope="module")
def source():
    return build_network(replace(VIT16, seed=7))


@pytest.fixture(scope="module")
def tensors(source):
    return body(source)


def start(path, spec=VIT16, **changes):
    return start_network(replace(spec, encoder_weights=str(path), **changes))


def same(network, wanted):
    found = body(network)
    return found.keys() == wanted.keys() and all(
        torch.equal(v, wanted[k]) for k, v in found.items()
    )


def under(prefix, tensors):
    return {f"{prefix}{k}": v for k, v in tensors.items()}


TRANSFORMERS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "attn.proj": "attention.output.dense",
}
VIT = {
    **TRANSFORMERS,
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
DINOV2 = {
    **TRANSFORMERS,
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
GATED_DINOV2 = {**DINOV2, "mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
"""timm's names -> those of models in transformers."""


def in_hugging_faces_names(tensors, model="", names=VIT):
    """As transformers has them, queries, keys and values apart."""
    found = {}
    for name, tensor in tensors.items():
        new = name
        for old, theirs in names.items():
            new = new.replace(old, theirs)
        new = re.sub(r"^norm\.", "layernorm.", new)
        new = re.sub(r"^blocks\.", "encoder.layer.", new)
        if ".attn.qkv." not in new:
            found[model + new] = tensor.clone()
            continue
        parts = ("query", "key", "value")
        for part, values in zip(parts, tensor.chunk(3), strict=True):
            where = new.replace(".attn.qkv.", f".attention.attention.{part}.")
            found[model + where] = values.clone()
    return found


LAYOUTS = {
    "timm": lambda t: t,
    "dinov2": lambda t: {"teacher": {**under("backbone.", t)}},
    "dinov2, nested": lambda t: {"model": {"teacher": under("module.backbone.", t)}},
    "lightning": lambda t: {"state_dict": under("model.encoder.", t)},
    "compiled": lambda t: {"model": under("module._orig_mod.", t)},
    "open_clip": lambda t: under("visual.trunk.", t),
    "a trainer's settings": lambda t: {"model": t, "args": Namespace(lr=1e-4)},
    "transformers": in_hugging_faces_names,
    "transformers, of a classifier": lambda t: {
        **in_hugging_faces_names(t, "vit."),
        "classifier.weight": torch.zeros(3, 24),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_encoder_is_filled_from_the_layouts_of_others(tmp_path, tensors, layout):
    path = tmp_path / "e.pth"
    torch.save(LAYOUTS[layout](tensors), path)
    found = start(path)
    assert same(found.network, tensors)
    assert found.pretrained
    head = "; left over: classifier.weight" if "classifier" in layout else ""
    assert found.origin == f"encoder: e.pth{head}"


def test_hugging_faces_queries_keys_and_values_are_joined_in_timms_order(
    tmp_path, tensors, source
):
    """Held against attention as transformers computes it, by its own names."""
    theirs = in_hugging_faces_names(tensors)
    torch.save(theirs, tmp_path / "e.pth")
    block = start(tmp_path / "e.pth").network.encoder.model.blocks[2].eval()
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0))
    stem = "encoder.layer.2.attention."

    def linear(name, values):
        return functional.linear(
            values, theirs[f"{stem}{name}.weight"], theirs[f"{stem}{name}.bias"]
        )

    q, k, v = (
        linear(f"attention.{part}", x).reshape(1, 5, 2, 12).transpose(1, 2)
        for part in ("query", "key", "value")
    )
    weights = (q @ k.transpose(-1, -2) / 12**0.5).softmax(-1)
    want = linear("output.dense", (weights @ v).transpose(1, 2).reshape(1, 5, 24))
    with torch.inference_mode():
        assert torch.allclose(block.attn(x), want, atol=1e-6)


def in_transformers_5_names(tensors, names):
    """A model's own state_dict, where gates and values are two tensors."""
    found = {}
    for name, tensor in in_hugging_faces_names(tensors, names=names).items():
        new = name.replace("attention.output.dense", "attention.o_proj")
        for part in ("query", "key", "value"):
            new = new.replace(
                f"attention.attention.{part}", f"attention.{part[0]}_proj"
            )
        new = new.replace(
            "encoder.layer.", "layers." if names is VIT else "encoder.layer."
        )
        new = re.sub(r"intermediate\.dense", "mlp.fc1", new)
        new = re.sub(r"(\d)\.output\.dense", r"\1.mlp.fc2", new)
        new = new.replace("mlp.weights_out", "mlp.down_proj")
        if ".weights_in." not in new:
            found[new] = tensor
            continue
        for part, values in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
            found[new.replace("weights_in", part)] = values.clone()
    return found


@pytest.mark.parametrize(
    ("spec", "names"), [(VIT16, VIT), (SCALED, DINOV2), (GATED, GATED_DINOV2)]
)
def test_what_a_model_of_transformers_5_calls_its_tensors_is_known(
    tmp_path, spec, names
):
    wanted = body(build_network(replace(spec, seed=7)))
    given = in_transformers_5_names(wanted, names)
    assert not any("attention.attention" in name or "dense" in name for name in given)
    save_file(given, tmp_path / "e.safetensors")
    assert same(start(tmp_path / "e.safetensors", spec).network, wanted)
    gone = next(n for n in given if n.endswith("0.attention.v_proj.weight"))
    del given[gone]
    save_file(given, tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.value\.weight is missing"):
        start(tmp_path / "e.safetensors", spec)


def test_dinov2_is_filled_from_the_names_of_transformers_and_its_own(tmp_path):
    plain = body(build_network(replace(SCALED, seed=7)))
    save_file(
        in_hugging_faces_names(plain, "dinov2.", DINOV2), tmp_path / "e.safetensors"
    )
    assert same(start(tmp_path / "e.safetensors", SCALED).network, plain)
    gated = body(build_network(replace(GATED, seed=7)))
    theirs = in_hugging_faces_names(gated, names=GATED_DINOV2)
    own = {
        k.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): v
        for k, v in gated.items()
    }
    for number, given in enumerate((theirs, own)):
        assert not any(".fc" in name for name in given)
        save_file(given, tmp_path / f"{number}.safetensors")
        assert same(start(tmp_path / f"{number}.safetensors", GATED).network, gated)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(tmp_path, tensors, dtype):
    halves = {k: v.to(dtype) for k, v in tensors.items()}
    save_file(halves, tmp_path / "e.safetensors")
    assert same(
        start(tmp_path / "e.safetensors").network,
        {k: v.float() for k, v in halves.items()},
    )


def test_positions_of_another_grid_are_interpolated_and_that_is_said(tmp_path):
    given = body(build_network(dpt("vit_tiny_patch16_224", img_size=96)))
    assert given["pos_embed"].shape == (1, 37, 24)
    save_file(given, tmp_path / "e.safetensors")
    found = start(tmp_path / "e.safetensors")
    want = resample_abs_pos_embed(given["pos_embed"], [14, 14], [6, 6])
    assert torch.equal(found.network.encoder.model.pos_embed, want)
    note = "position embeddings of 6 x 6 interpolated to 14 x 14"
    assert found.origin == f"encoder: e.safetensors; {note}"
    oblong = dpt("vit_tiny_patch16_224", img_size=[224, 448])
    with pytest.raises(ValueError, match=r"392 tokens, which are no square: leave img"):
        start(tmp_path / "e.safetensors", oblong)
    given["pos_embed"] = given["pos_embed"][:, :30].clone()
    save_file(given, tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match=r"\[1, 30, 24\] is no square grid beside 1"):
        start(tmp_path / "e.safetensors")


def test_the_registers_of_dinov2s_own_files_go_where_timm_has_them(tmp_path):
    network = build_network(replace(REGISTERS, seed=7))
    wanted = body(network)
    given = dict(wanted)
    classed = torch.full((1, 1, 24), 0.25)
    given["register_tokens"] = given.pop("reg_token")
    given["pos_embed"] = torch.cat([classed, given["pos_embed"]], dim=1)
    given["cls_token"] = given["cls_token"] - classed
    given["mask_token"] = torch.zeros(1, 24)
    save_file(given, tmp_path / "e.safetensors")
    found = start(tmp_path / "e.safetensors", REGISTERS)
    assert "left over: mask_token" in found.origin
    got = body(found.network)
    assert all(torch.allclose(got[k], v, atol=1e-7) for k, v in wanted.items())


def test_a_head_is_left_over_and_listed(tmp_path, tensors):
    head = {"head.weight": torch.zeros(5, 24), "dino_head.mlp.0.weight": torch.zeros(2)}
    torch.save({**tensors, **head}, tmp_path / "e.pth")
    origin = start(tmp_path / "e.pth").origin
    assert origin == "encoder: e.pth; left over: dino_head.mlp.0.weight, head.weight"


def test_teacher_and_student_are_asked_for(tmp_path, tensors):
    student = body(build_network(replace(VIT16, seed=8)))
    content = {"student": under("module.backbone.", student)}
    content["teacher"] = under("backbone.", tensors)
    torch.save(content, tmp_path / "e.pth")
    asked = r"under student and teacher, which differ: give .*encoder_key"
    with pytest.raises(ValueError, match=asked):
        start(tmp_path / "e.pth")
    found = start(tmp_path / "e.pth", encoder_key="teacher")
    assert same(found.network, tensors)
    assert same(start(tmp_path / "e.pth", encoder_key="student").network, student)
    flat = {**under("student.", student), **under("teacher.", tensors)}
    save_file(flat, tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match=r"student\.\S+ and teacher\.\S+ are both"):
        start(tmp_path / "e.safetensors")
    found = start(tmp_path / "e.safetensors", encoder_key="teacher")
    assert same(found.network, tensors)


def test_a_key_without_a_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"encoder_key = 'teacher': is of encoder_w"):
        replace(VIT16, encoder_key="teacher")
    tree = {"members": [row(tmp_path / "e.pth", encoder_key="teacher")]}
    (member,) = resolve_recipe(tree, init="random").members
    assert member.encoder_key is None


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("blocks.3.norm1.bias", None, r"encoder's blocks\.3\.norm1\.bias is missing"),
        ("blocks.12.norm1.bias", torch.zeros(24), "1 tensors left over"),
        ("adapter.weight", torch.zeros(24), r"no head's \(adapter"),
        (
            "patch_embed.proj.weight",
            torch.zeros(24, 3, 14, 14),
            r"has shape \[24, 3, 16, 16\] here, but \[24, 3, 14, 14\] in the file",
        ),
        ("blocks.0.attn.qkv.bias", torch.full((72,), np.nan), "holds NaN"),
    ],
)
def test_what_is_missing_left_over_or_of_another_shape_is_refused(
    tmp_path, tensors, name, tensor, message
):
    given = {k: v for k, v in tensors.items() if k != name}
    if tensor is not None:
        given[name] = tensor
    torch.save(given, tmp_path / "e.pth")
    with pytest.raises(ValueError, match=message):
        start(tmp_path / "e.pth")


def test_scales_of_layers_are_not_dropped_in_silence(tmp_path):
    given = body(build_network(replace(SCALED, seed=7)))
    save_file(given, tmp_path / "uni.safetensors")
    with pytest.raises(ValueError, match=r"24 tensors left over .*init_values = 1e-5"):
        start(tmp_path / "uni.safetensors")
    assert same(start(tmp_path / "uni.safetensors", SCALED).network, given)


def test_a_transformer_is_never_filled_by_order(tmp_path, tensors):
    numbered = {f"t{i}": v for i, v in enumerate(tensors.values())}
    torch.save(numbered, tmp_path / "e.pth")
    with pytest.raises(ValueError, match=r"the encoder's \S+ is missing"):
        start(tmp_path / "e.pth")


def test_a_hierarchical_encoder_is_filled_by_timms_names(tmp_path):
    name, small = "swin_tiny_patch4_window7_224", {"embed_dim": 12}
    spec = replace(VIT16, architecture="UPerNet", encoder=f"tu-{name}")
    spec = replace(spec, options={"decoder_channels": 8, **small})
    full = timm.create_model(name, **small)
    network = build_network(spec)
    account = load_encoder(network, full.state_dict(), source=tmp_path / "e.pth")
    left = ("head.fc.bias", "head.fc.weight", "norm.bias", "norm.weight")
    assert account.left_over == left
    own = network.encoder.model.state_dict()
    assert torch.equal(
        own["layers_2.blocks.5.mlp.fc2.weight"],
        full.state_dict()["layers.2.blocks.5.mlp.fc2.weight"],
    )


# --- what files beside it state ---


def row(path, **more):
    keys = ("name", "architecture", "encoder", "options")
    own = {key: getattr(VIT16, key) for key in keys}
    return {**own, "encoder_weights": str(path), **more}


def test_the_input_scale_is_the_files_where_it_states_one(tmp_path, tensors, caplog):
    path = tmp_path / "e.safetensors"
    save_file(tensors, path)

    def color_of(**more):
        (member,) = resolve_recipe({"members": [row(path, **more)]}).members
        return member.mean, member.std

    half = ((0.5,) * 3, (0.5,) * 3)
    assert color_of() == half == color_of(weights="random")
    assert "if" in caplog.text
    assert "give mean and std" in caplog.text
    mean, std = [0.7, 0.6, 0.7], [0.2, 0.3, 0.2]
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": mean, "image_std": std})
    )
    assert color_of() == (tuple(mean), tuple(std))
    wrong: list[tuple[dict, str]] = [
        ({"rescale_factor": 1 / 127.5}, "rescale_factor = .* not of pixels from 0"),
        ({"do_rescale": False}, "do_rescale = False"),
        ({"do_normalize": False}, "do_normalize = False"),
        ({"image_mean": [None] * 3}, "must be three numbers, of R, G and B"),
        ({"image_std": [0.5]}, "must be three numbers, of R, G and B"),
    ]
    for says, message in wrong:
        images = {"image_mean": mean, "image_std": std} | says
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
        with pytest.raises(ValueError, match=message):
            color_of()
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": mean, "image_std": std})
    )
    cfg = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    cfg["license"] = "cc-by-nc-nd-4.0"
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
    with pytest.raises(ValueError, match="say another mean"):
        color_of()
    given = color_of(mean=[0.1] * 3, std=[0.2] * 3)  # the files are not asked
    assert given == ((0.1,) * 3, (0.2,) * 3)
    (tmp_path / "preprocessor_config.json").unlink()
    assert color_of() == (tuple(cfg["mean"]), tuple(cfg["std"]))
    assert color_of(mean=[0.1, 0.2, 0.3])[0] == (0.1, 0.2, 0.3)
    spec = replace(VIT16, encoder_weights=str(path))
    assert encoder_license(spec) == "cc-by-nc-nd-4.0"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json, beside .* no JSON"):
        color_of()


def test_the_license_of_weights_by_name_is_timms():
    assert encoder_license(replace(VIT16, weights="imagenet")) == "apache-2.0"
    assert encoder_license(VIT16) is None
