"""Encoders that are vision transformers: sizes of patches, position embeddings."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from torch.nn import functional

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks import check
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import write_card
from digipath_ray.networks.check import check_member, count_operations
from digipath_ray.networks.encoder_file import UNUSED
from digipath_ray.networks.normalization import default_normalization
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.transformers import fix_positions, takes_any_size
from digipath_ray.networks.weights import load_member, save_weights
from digipath_ray.storage.files import file_digest
from digipath_ray.training.fit import MemberFit
from tests.annotated import batch_of
from tests.members import card_of
from tests.transformers import LIGHT_DECODER, VIT14, VIT16, VIT32, dpt

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PROJECT = Path(__file__).parents[1]


def row(spec):
    """The [[members]] row of a spec."""
    keys = ("name", "architecture", "encoder", "weights", "options")
    return {key: getattr(spec, key) for key in keys}


@pytest.fixture(scope="module")
def bare():
    """The networks on the device "meta", by the px of their tokens."""
    by_token = {14: VIT14, 16: VIT16, 32: VIT32}
    return {
        token: (spec, build_network(spec).to("meta").eval())
        for token, spec in by_token.items()
    }


# --- sizes ---


@pytest.mark.parametrize(
    ("token", "sides"),
    [(14, (28, 224, 252, 1008)), (16, (32, 224, 256, 1024)), (32, (32, 224, 1024))],
)
def test_patches_of_these_sizes_are_answered_at_full_size(bare, token, sides):
    spec, network = bare[token]
    for side in sides:
        shape = check.shape_of_maps(network, spec, patch_px=side)
        assert shape == (1, 2, side, side)


@pytest.mark.parametrize(
    ("token", "side", "step", "near"),
    [
        (14, 238, 1, "224 or 252"),  # 17 tokens: half of them is no number of px
        (14, 1024, 32, "896 or 1120"),
        (16, 1040, 1, "1024 or 1056"),
        (32, 1040, 1, "1024 or 1056"),
        (32, 16, 1, "32"),
    ],
)
def test_a_size_that_cannot_be_taken_is_refused_with_the_next(
    bare, token, side, step, near
):
    spec, network = bare[token]
    message = (
        rf"cannot take patches of {side} px: .*next sizes that it takes: {near} px"
    )
    with pytest.raises(ValueError, match=message) as e:
        check.shape_of_maps(network, spec, patch_px=side, step=step)
    assert "Consider" not in str(e.value)  # smp's advice, which is another number
    for other in map(int, near.split(" or ")):
        shape = check.shape_of_maps(network, spec, patch_px=other)
        assert shape[-2:] == (other, other)


def test_a_network_of_one_size_names_it_and_takes_another_as_an_option():
    beit = dpt("beit_base_patch16_224")
    with pytest.raises(ValueError, match=r"next sizes that it takes: 224 px"):
        check_member(beit, patch_px=1024)
    larger = replace(beit, options={**beit.options, "img_size": 64})
    check_member(larger, patch_px=64)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("UPerNet", "tu-swin_tiny_patch4_window7_224"),
        ("Segformer", "tu-pvt_v2_b0"),
        ("Segformer", "mit_b0"),
    ],
)
def test_hierarchical_encoders_take_multiples_of_32(architecture, encoder):
    spec = MemberSpec(
        name="m", architecture=architecture, encoder=encoder, weights="random"
    )
    network = build_network(spec).to("meta").eval()
    for side in (256, 1024):
        assert check.shape_of_maps(network, spec, patch_px=side)[-1] == side
    with pytest.raises(ValueError, match=r"divisible by 32; .*: 992 or 1024 px"):
        check.shape_of_maps(network, spec, patch_px=1000)


def test_a_fit_is_refused_before_slides_are_read():
    tree = {"grid": {"patch_px": 1024}, "members": [row(VIT14)]}
    with pytest.raises(ValueError, match=r"patches of 256 px: .*224 or 448 px"):
        resolve_recipe(tree)
    tree["sampling"] = {"fit_patch_px": 224}
    with pytest.raises(ValueError, match=r"patches of 1024 px: .*896 or 1120 px"):
        resolve_recipe(tree)
    tree["grid"] = {"patch_px": 896, "stride_px": 448}
    assert resolve_recipe(tree).grid.patch_px == 896


def test_a_run_is_refused_before_slides_are_read():
    tree = {"grid": {"patch_px": 256, "stride_px": 128}, "members": [row(VIT14)]}
    with pytest.raises(ValueError, match=r"patches of 256 px: .*takes: 224 or 448 px"):
        resolve(tree)
    tree["grid"] = {"patch_px": 224}
    assert resolve(tree).grid.stride_px == 112


# --- names and options ---


def test_which_encoders_take_any_size():
    known = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
    known += ("eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224")
    assert all(takes_any_size(f"tu-{name}") for name in known)
    fixed = ("tu-beit_base_patch16_224", "tu-resnet18", "resnet18", "mit_b0", None)
    assert not any(map(takes_any_size, fixed))


def test_a_plain_transformer_is_refused_where_several_scales_are_needed():
    spec = replace(VIT16, architecture="UPerNet", options={})
    with pytest.raises(ValueError, match=r'have one scale, .*architecture = "DPT"'):
        build_network(spec)


def test_options_of_the_encoder_are_known_and_others_refused():
    network = build_network(dpt("vit_tiny_patch16_224", init_values=1e-5))
    assert network.encoder.model.blocks[3].ls1.gamma.shape == (24,)
    glu = dpt("vit_tiny_patch16_224", mlp_layer="SwiGLUPacked", act_layer="silu")
    assert type(build_network(glu).encoder.model.blocks[0].mlp).__name__ == "GluMlp"
    with pytest.raises(ValueError, match=r"unknown option .*closest are init_values"):
        build_network(dpt("vit_tiny_patch16_224", init_value=1e-5))
    with pytest.raises(ValueError, match=r"option mlp_layer: timm\.layers has no Swi"):
        build_network(dpt("vit_tiny_patch16_224", mlp_layer="SwiGlue"))


GATED = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
PAGES = {
    "UNI": ("vit_large_patch16_224", {"init_values": 1e-5}),
    "UNI 2": (
        "vit_giant_patch14_224",
        {
            "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24,
            "init_values": 1e-5, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True, "reg_tokens": 8, **GATED,
        },
    ),
    "Virchow": (
        "vit_huge_patch14_224", {"init_values": 1e-5, "mlp_ratio": 5.3375, **GATED},
    ),
    "Virchow 2": (
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, **GATED},
    ),
    "H-optimus-0, H-optimus-1": (
        "vit_giant_patch14_reg4_dinov2", {"img_size": 224, "init_values": 1e-5},
    ),
    "Prov-GigaPath": (
        "vit_giant_patch14_dinov2",
        {
            "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40,
            "num_heads": 24, "init_values": 1e-5, "mlp_ratio": 5.33334,
        },
    ),
}  # fmt: skip
"""Foundation models as their own pages have timm build them."""


def row_of_docs(model):
    """Encoder and options that docs/weights.md gives for a foundation model."""
    lines = (PROJECT / "docs" / "weights.md").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(f"| {model} |"))
    encoder, options = (cell.strip(" `") for cell in line.split("|")[2:4])
    return encoder, tomllib.loads(f"options = {options}")["options"]


@pytest.mark.parametrize("model", PAGES)
def test_the_docs_build_foundation_models_as_their_pages_do(model):
    name, arguments = PAGES[model]
    encoder, options = row_of_docs(model)
    spec = MemberSpec(
        name="m", architecture="DPT", encoder=encoder, weights="random", options=options
    )
    with torch.device("meta"):  # a giant has 1.1 billion weights
        want = timm.create_model(name, num_classes=0, **arguments)
        found = build_network(spec).encoder.model

    def shapes(network):
        tensors = network.state_dict().items()
        return {k: v.shape for k, v in tensors if k.split(".")[0] not in UNUSED}

    assert shapes(found) == shapes(want)
    for key in ("num_prefix_tokens", "no_embed_class"):
        assert getattr(found, key) == getattr(want, key)
    one, other = found.blocks[0], want.blocks[0]
    assert one.norm1.eps == other.norm1.eps
    assert one.attn.num_heads == other.attn.num_heads
    assert type(one.mlp.act) is type(other.mlp.act)
    assert getattr(one.mlp, "gate_last", None) == getattr(other.mlp, "gate_last", None)


def test_gated_layers_say_what_they_are_gated_by():
    gated = {"mlp_layer": "SwiGLUPacked", "mlp_ratio": 8 / 3 * 2}
    with pytest.raises(ValueError, match=r'member vit: .*GELU: add act_layer = "silu"'):
        build_network(dpt("vit_tiny_patch16_224", **gated))
    spec = dpt("vit_tiny_patch16_224", **gated, act_layer="silu")
    mlp = build_network(spec).encoder.model.blocks[0].mlp.eval()
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        gate, value = mlp.fc1(x).chunk(2, dim=-1)
        want = mlp.fc2(functional.silu(gate) * value)  # SwiGLU as DINOv2 computes it
        assert torch.allclose(mlp(x), want, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "want"),
    [
        ("tu-vit_tiny_patch16_224", HALF),
        ("tu-vit_small_patch14_dinov2", IMAGENET),
        ("tu-swin_tiny_patch4_window7_224", IMAGENET),
        ("mit_b0", IMAGENET),
    ],
)
def test_normalization_is_the_encoders_own(encoder, want):
    spec = MemberSpec(name="m", architecture="DPT", encoder=encoder, weights="imagenet")
    assert default_normalization(spec) == want


# --- position embeddings ---


def counted(monkeypatch):
    """Sizes of the grids that are interpolated from now on."""
    grids = []

    def interpolate(image, *args, **kwargs):
        if kwargs.get("mode") == "bicubic":
            grids.append(tuple(kwargs["size"]))
        return original(image, *args, **kwargs)

    original = functional.interpolate
    monkeypatch.setattr(functional, "interpolate", interpolate)
    return grids


@pytest.mark.parametrize(("spec", "side"), [(VIT16, 96), (VIT14, 84), (VIT16, 256)])
def test_positions_are_interpolated_once_as_timm_does(monkeypatch, spec, side):
    network = build_network(spec).eval()
    own = network.encoder.model.pos_embed.detach().clone()
    token, made_for = network.encoder.output_stride, own.shape[1] - 1
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    grids = counted(monkeypatch)
    with torch.inference_mode():
        want = network(pixels)
        assert grids == [(side // token, side // token)]
        fix_positions(network, side)
        assert len(grids) == 2
        found = network(pixels)
        network(pixels)
    assert len(grids) == 2
    assert torch.equal(found, want)
    grid = [side // token] * 2
    assert made_for != grid[0] * grid[1]
    resampled = resample_abs_pos_embed(own, grid)
    assert torch.equal(network.encoder.model.pos_embed, resampled)


def test_a_member_is_loaded_for_its_patch(monkeypatch):
    pixels = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    want = load_member(VIT16)(pixels)
    member = load_member(VIT16, patch_px=96)
    grids = counted(monkeypatch)
    assert torch.allclose(member(pixels), want, atol=1e-6)
    assert grids == []


def test_files_of_weights_hold_the_grid_of_the_encoder_alone():
    network = build_network(VIT16)
    assert network.state_dict()["encoder.model.pos_embed"].shape == (1, 197, 24)


def test_networks_without_such_embeddings_are_left_alone():
    spec = MemberSpec(
        name="m", architecture="Unet", encoder="tu-resnet18", weights="random"
    )
    network = build_network(spec)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    fix_positions(network, 96)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_decoder_of_tokens_of_14_px_is_that_of_16_px():
    ours = build_network(VIT14).decoder.state_dict()
    of_16 = build_network(dpt("vit_tiny_patch16_224")).decoder.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in of_16.items()
    }
    assert set(LIGHT_DECODER) <= set(VIT14.options)


def test_the_operations_of_a_transformer_are_counted():
    small, large = (count_operations(VIT16, patch_px=side) for side in (96, 192))
    assert large > 4 * small  # attention grows with the square of the tokens


def test_a_frozen_transformer_is_fitted_from_a_file_and_runs_on_another_size(tmp_path):
    encoder = build_network(replace(VIT16, seed=7)).encoder.model.state_dict()
    save_file(encoder, tmp_path / "e.safetensors")
    tree = {
        "sampling": {"fit_patch_px": 64},
        "grid": {"patch_px": 96, "stride_px": 48, "mpp": 1.0},
        "fit": {"freeze_encoder": True, "batch_size": 4},
        "members": [{**row(VIT16), "encoder_weights": str(tmp_path / "e.safetensors")}],
    }
    recipe = resolve_recipe(tree)
    (spec,) = recipe.members
    assert (spec.mean, spec.std) == HALF
    fit = MemberFit(spec, recipe, torch.device("cpu"))
    decoder = fit.network.decoder.state_dict()
    before = {k: v.clone() for k, v in decoder.items()}
    tumor = np.zeros((4, 64, 64), bool)
    tumor[::2, 16:48, 16:48] = True
    pixels = np.where(tumor[..., None], 90, 200).repeat(3, axis=-1).astype(np.uint8)
    fit.fit_epoch([batch_of(tumor, pixels=pixels)])
    kept = fit.network.encoder.model.state_dict()
    assert all(torch.equal(v, encoder[k]) for k, v in kept.items())
    assert not any(torch.equal(v, before[k]) for k, v in decoder.items())
    path = tmp_path / "run" / "vit.safetensors"
    path.parent.mkdir()
    save_weights(fit.network.state_dict(), path)
    seen = {"mean": spec.mean, "std": spec.std, "patch_px": 96, "mpp": 1.0}
    write_card(path, card_of(VIT16, digest=file_digest(path), **seen))
    config = resolve({"grid": {"downsample": 16}}, weights=path.parent)
    predictor = EnsemblePredictor(config.members, config)
    positions = predictor.members["vit"].network.encoder.model.pos_embed
    assert positions.shape == (1, 37, 24)
    blocks = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    maps = predictor.predict_combined(blocks, np.array([[[0, 1], [2, 3]]]))
    pixels = blocks.reshape(2, 2, 48, 48, 3).swapaxes(1, 2).reshape(96, 96, 3)
    network = fit.network.eval()
    with torch.inference_mode():
        scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 * 2 - 1
        want = network(scaled).softmax(1)[0, 1].reshape(6, 16, 6, 16).mean((1, 3))
    assert np.allclose(maps["probability"][0], want, atol=1e-5)
