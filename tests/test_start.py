from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from digipath_ray.config.run import MemberSpec
from digipath_ray.config.toml import load_config
from digipath_ray.networks.build import build_network
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.resolve import resolve
from digipath_ray.training.start import start_network


def spec(**changes: object) -> MemberSpec:
    given = {
        "name": "m",
        "architecture": "Unet",
        "encoder": "resnet18",
        "weights": "random",
        **changes,
    }
    return MemberSpec(**given)


def parameters_equal(a: torch.nn.Module, b: torch.nn.Module, part: str) -> bool:
    one, two = a.get_submodule(part).state_dict(), b.get_submodule(part).state_dict()
    return all(one[k].equal(two[k]) for k in one)


def test_random_starts_differ_by_seed_and_are_not_pretrained():
    one, two = start_network(spec(seed=1)), start_network(spec(seed=2))
    assert not one.pretrained
    assert parameters_equal(one.network, start_network(spec(seed=1)).network, "decoder")
    assert not parameters_equal(one.network, two.network, "decoder")


def test_a_file_of_weights_is_the_start(tmp_path):
    trained = build_network(spec(seed=7))
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    start = start_network(spec(weights=str(tmp_path / "w.safetensors")))
    assert start.pretrained
    assert start.origin == "w.safetensors"
    for part in ("encoder", "decoder", "segmentation_head"):
        assert parameters_equal(start.network, trained, part)


def test_a_head_of_other_classes_stays_random_and_is_told(tmp_path):
    tensors = build_network(spec(seed=7)).state_dict()
    for name in ("weight", "bias"):  # as of a network of 21 classes
        key = f"segmentation_head.0.{name}"
        tensors[key] = torch.zeros(21, *tensors[key].shape[1:])
    save_file(tensors, tmp_path / "voc.safetensors")
    start = start_network(spec(weights=str(tmp_path / "voc.safetensors")))
    assert start.pretrained
    assert start.origin == (
        "voc.safetensors; random: segmentation_head.0.weight, segmentation_head.0.bias"
    )


def test_weights_of_another_architecture_are_refused(tmp_path):
    other = build_network(spec(encoder="vgg11"))
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="of another architecture"):
        start_network(spec(weights=str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_encoder_is_filled_by_name(tmp_path, prefix, suffix):
    encoder = build_network(spec(seed=7)).get_submodule("encoder")
    tensors = {f"{prefix}{k}": v for k, v in encoder.state_dict().items()}
    tensors["fc.weight"] = torch.zeros(1000, 512)
    path = tmp_path / f"encoder.{suffix}"
    if suffix == "pth":
        torch.save(dict(reversed(tensors.items())), path)
    else:
        save_file(tensors, path)
    start = start_network(spec(encoder_weights=str(path)))
    assert start.pretrained
    assert start.origin == f"encoder: encoder.{suffix}; left over: fc.weight"
    assert parameters_equal(start.network, build_network(spec(seed=7)), "encoder")
    assert parameters_equal(start.network, build_network(spec(seed=0)), "decoder")


def test_an_encoder_of_other_names_is_filled_in_order(tmp_path):
    encoder = build_network(spec(seed=7)).get_submodule("encoder")
    tensors = {f"layer_{i}": v for i, v in enumerate(encoder.state_dict().values())}
    kept = {k: v for k, v in tensors.items() if v.dtype != torch.int64}
    torch.save(
        {"state_dict": kept | {"head": torch.zeros(10, 512)}}, tmp_path / "e.pth"
    )
    file = str(tmp_path / "e.pth")
    with pytest.raises(ValueError, match=r"names layer_0: .* encoder_by_order = true"):
        start_network(spec(encoder_weights=file))
    start = start_network(spec(encoder_weights=file, encoder_by_order=True))
    assert start.origin == (
        "encoder: e.pth; by order, as its names are others; left over: head"
    )
    assert parameters_equal(start.network, build_network(spec(seed=7)), "encoder")
    with pytest.raises(ValueError, match=r"encoder_by_order = True: is of encoder_w"):
        spec(encoder_by_order=True)


@pytest.mark.parametrize(
    ("encoder", "why"),
    [
        ("resnet34", "of a larger encoder"),
        ("resnet50", r"layer1\.0\.conv1\.weight has shape"),
    ],
)
def test_another_encoder_is_refused(tmp_path, encoder, why):
    other = build_network(spec(encoder=encoder)).get_submodule("encoder")
    torch.save(other.state_dict(), tmp_path / "e.pth")
    with pytest.raises(ValueError, match=why):
        start_network(spec(encoder_weights=str(tmp_path / "e.pth")))


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    encoder = build_network(spec()).get_submodule("encoder").state_dict()
    torch.save(dict(list(encoder.items())[:20]), tmp_path / "e.pth")
    with pytest.raises(
        ValueError, match=r"83 of the encoder's 100 tensors are missing, e.g. \S+bias$"
    ):
        start_network(spec(encoder_weights=str(tmp_path / "e.pth")))


@pytest.mark.parametrize("content", [b"no tensors", b""])
def test_no_weights_file_is_refused(tmp_path, content):
    (tmp_path / "e.pth").write_bytes(content)
    with pytest.raises(ValueError, match="not a PyTorch file of tensors alone"):
        start_network(spec(encoder_weights=str(tmp_path / "e.pth")))
    with pytest.raises(ValueError, match="file not found"):
        start_network(spec(encoder_weights=str(tmp_path / "gone.pth")))


def test_every_member_of_a_recipe_knows_its_start(tmp_path):
    tree = {
        "fit": {"seed": 5},
        "members": [
            {"name": "a", "architecture": "Unet", "encoder": "resnet18"},
            {
                "name": "b",
                "architecture": "Unet",
                "encoder": "inceptionresnetv2",
                "weights": "random",
            },
            {
                "name": "c",
                "architecture": "Unet",
                "encoder": "resnet18",
                "encoder_weights": "e.pth",
            },
        ],
    }
    recipe = resolve_recipe(tree)
    assert [m.weights for m in recipe.members] == ["imagenet", "random", None]
    assert [m.seed for m in recipe.members] == [5, 6, 7]
    means = [m.mean for m in recipe.members]
    assert means == [(0.485, 0.456, 0.406), (128 / 255,) * 3, (0.485, 0.456, 0.406)]
    everything = resolve_recipe(tree, init="random")
    assert {m.weights for m in everything.members} == {"random"}
    assert {m.encoder_weights for m in everything.members} == {None}


JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.toml"))


@pytest.mark.parametrize("path", JOBS, ids=[p.stem for p in JOBS])
def test_every_recipe_in_jobs_says_what_to_fit_and_how_to_run_it(path):
    tree = load_config(path=path)
    recipe = resolve_recipe(tree, init="random")
    assert len(recipe.members) >= 3
    config = resolve(tree, weights="random")
    assert [m.name for m in config.members] == [m.name for m in recipe.members]


def test_without_members_the_paper_s_are_fitted():
    recipe = resolve_recipe({}, init="random")
    assert [m.name for m in recipe.members] == [
        "unet-densenet121",
        "unet-inceptionresnetv2",
        "deeplabv3plus-xception65",
    ]


def test_what_cannot_be_fitted_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no unet-densenet121\.safetensors"):
        resolve_recipe({}, init=tmp_path)
