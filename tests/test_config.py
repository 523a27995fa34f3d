"""Configs: merging, checking, comparing."""

from pathlib import Path

import pytest
import tomli_w

from digipath_ray.config.difference import difference
from digipath_ray.config.run import GridSpec, RunConfig
from digipath_ray.config.toml import (
    PRESETS,
    check_tree,
    from_tree,
    load_config,
    option_fields,
    read_preset,
    recipe_from_tree,
    to_tree,
)


def test_defaults_are_the_papers() -> None:
    grid = GridSpec()
    assert (grid.mpp, grid.patch_px, grid.stride_px) == (0.25, 1024, 512)
    assert grid.blocks_per_side == 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads(name: str) -> None:
    config = from_tree(read_preset(name))
    assert config.grid.stride_px * 2 == config.grid.patch_px


def test_presets_of_flat_images_reflect_their_edges_and_keep_every_pixel() -> None:
    for name in ("digestpath2019", "glas"):
        config = from_tree(read_preset(name))
        assert (config.slide.edge, config.grid.downsample) == ("reflect", 1)
        assert config.slide.slide_mpp == config.grid.mpp


def test_masks_of_glas_number_their_glands() -> None:
    assert recipe_from_tree(read_preset("glas")).annotations.mask_above == 0


def test_file_over_preset_and_option_over_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('preset = "glas"\n[grid]\nmpp = 0.5\npatch_px = 256\n')
    tree = load_config(path=path, overrides={"grid": {"patch_px": 128}})
    assert tree["grid"] == {
        "mpp": 0.5,
        "patch_px": 128,
        "stride_px": 256,
        "downsample": 1,
    }
    assert tree["tissue"] == {"tissue": "all"}


def test_tree_and_toml_round_trip(tmp_path: Path) -> None:
    tree = {
        "slide": {"slide_mpp": 0.5},
        "members": [
            {
                "name": "a",
                "architecture": "Unet",
                "encoder": "resnet18",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "options": {"decoder_channels": [64, 32]},
            }
        ],
    }
    config = from_tree(tree)
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(to_tree(config)))
    assert to_tree(from_tree(load_config(path=path))) == to_tree(config)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"grid": {"patchpx": 3}}, r"unknown field 'patchpx' in \[grid\]: known are"),
        ({"gird": {}}, r"unknown section \[gird\]: known are slide, tissue, grid"),
        ({"grid": {"patch_px": 100.5}}, "grid.patch_px = 100.5: must be of type int"),
        ({"grid": {"mpp": "fine"}}, "grid.mpp = 'fine': must be of type float"),
        ({"grid": {"patch_px": 1000}}, "grid.patch_px = 1000: must be a multiple"),
        ({"grid": {"stride_px": 2048}}, "grid.stride_px = 2048"),
        ({"grid": {"downsample": 64}}, "grid.downsample = 64: 1 to 32"),
        ({"slide": {"edge": "black"}}, "slide.edge = 'black': choose from white"),
        ({"slide": {"allow_upsampling": 1}}, "must be of type bool"),
        ({"ensemble": {"tta": ["spin"]}}, "ensemble.tta = 'spin': choose from"),
        ({"ensemble": {"tta": ["hflip", "hflip"]}}, "name each transform once"),
        ({"compute": {"chunk_cells": 60}}, "must be a multiple of batch_size"),
        ({"members": [{"name": "a"}]}, "field 'architecture' is missing"),
        (
            {"members": [{"name": "a/b", "architecture": "Unet"}]},
            "members.name = 'a/b'",
        ),
        (
            {
                "members": [
                    {"name": "a", "architecture": "Unet"},
                    {"name": "a", "architecture": "Unet"},
                ]
            },
            "must be unique",
        ),
    ],
)
def test_wrong_values_are_named(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_tree(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid", "not valid TOML"),
        ("[grid]\nmppp = 1\n", "unknown field 'mppp'"),
        ("[grid]\nmagnification = 20\n", r"\(--magnification\): write mpp, .* 20x is"),
        ("[grid]\noverlap_px = 0\n", r"\(--overlap-px\): write stride_px, which"),
        ('preset = "camelyon"\n', "preset 'camelyon' is unknown: choose from"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"config .*c.toml: .*{message}"):
        load_config(path=path)
    with pytest.raises(ValueError, match="file not found"):
        load_config(path=tmp_path / "none.toml")


def test_difference_leaves_out_where_and_how_fast() -> None:
    old = to_tree(from_tree({}))
    new = to_tree(from_tree({"grid": {"stride_px": 256}, "compute": {"batch_size": 4}}))
    assert difference(old, new) == ["grid.stride_px: 512 -> 256"]
    half = to_tree(from_tree({"compute": {"precision": "bfloat16"}}))
    assert difference(old, half) == ["compute.precision: auto -> bfloat16"]


def test_what_older_versions_did_not_say_of_a_member_is_as_it_was() -> None:
    row = {"name": "a.b", "architecture": "Unet", "options": {}}
    new = to_tree(from_tree({"members": [{**row, "output_stride": 2}]}))
    old = {**new, "members": [row]}
    assert difference(old, new) == ["members.a.b.output_stride: 1 -> 2"]


def test_channels_leave_out_what_is_not_estimated() -> None:
    assert RunConfig().channels == ("probability",)
    members = [{"name": n, "architecture": "Unet"} for n in "ab"]
    tree = {
        "members": members,
        "ensemble": {"tta": ["identity", "hflip"], "keep_members": True},
    }
    assert from_tree(tree).channels == (
        "probability",
        "aleatoric",
        "epistemic",
        "member:a",
        "member:b",
    )
    assert from_tree({"members": members}).channels == ("probability", "epistemic")


def test_every_option_has_a_help_text_and_a_name_of_its_own() -> None:
    options = option_fields()
    assert all(f.metadata["help"] for _, f, _ in options.values())
    with pytest.raises(ValueError, match="unknown"):
        check_tree({"grid": {"nothing": 1}})


def test_weights_named_in_a_file_lie_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    row = '[[members]]\nname = "a"\narchitecture = "Unet"\nweights = '
    path.write_text(row + '"w/a.safetensors"')
    expected = str(tmp_path / "w" / "a.safetensors")
    assert load_config(path=path)["members"][0]["weights"] == expected
    for kept in ("random", "s3://bucket/a.safetensors"):
        path.write_text(f'{row}"{kept}"')
        assert load_config(path=path)["members"][0]["weights"] == kept


def test_a_setting_that_an_older_version_did_not_have_had_its_default() -> None:
    new = {"grid": {"mpp": 0.5, "overlap": "full", "doubt": 0.05}}
    old = {"grid": {"mpp": 0.5}}
    assert difference(old, new) == []
    adaptive = {"grid": {**new["grid"], "overlap": "adaptive"}}
    assert difference(old, adaptive) == ["grid.overlap: full -> adaptive"]
    # A bound that nothing asks for changes no heatmap.
    assert difference(new, {"grid": {**new["grid"], "doubt": 0.1}}) == []
    lower = {"grid": {**adaptive["grid"], "doubt": 0.1}}
    assert difference(adaptive, lower) == ["grid.doubt: 0.05 -> 0.1"]
    wider = {"grid": {**adaptive["grid"], "doubt_um": 100}}
    assert difference(adaptive, wider) == ["grid.doubt_um: 40.0 -> 100"]
