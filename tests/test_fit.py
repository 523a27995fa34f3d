import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from digipath_ray.config.recipe import FitSpec, Recipe
from digipath_ray.config.run import MemberSpec
from digipath_ray.config.toml import merge, recipe_from_tree
from digipath_ray.networks.build import build_network
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.training.fit import FitStopped, MemberFit, freezes
from digipath_ray.training.reader import Columns
from tests.annotated import FIT, batch_of

CPU = torch.device("cpu")
SMALL = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def make_batch(n: int = 4, *, seed: int = 0, side: int = 32) -> Columns:
    """Patches whose tumor, a rectangle, is dark."""
    rng = np.random.default_rng(seed)
    tumor = np.zeros((n, side, side), bool)
    for i in range(0, n, 2):
        x, y = rng.integers(0, side // 2, 2)
        tumor[i, y : y + side // 2, x : x + side // 2] = True
    pixels = np.where(tumor[..., None], 90, 200) + rng.normal(0, 10, (*tumor.shape, 3))
    return batch_of(tumor, pixels=pixels.clip(0, 255).astype(np.uint8))


def make_recipe(**fit: object) -> Recipe:
    return recipe_from_tree(merge(FIT, {"fit": fit}))


def make_spec(tmp_path, *, architecture: str = "Unet", pretrained: bool) -> MemberSpec:
    options = SMALL if architecture == "Unet" else {"encoder_depth": 5}
    spec = MemberSpec(
        name="m",
        architecture=architecture,
        encoder="resnet18",
        weights="random",
        options=options,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    if not pretrained:
        return spec
    path = tmp_path / "start.safetensors"
    save_file(build_network(spec).state_dict(), path)
    return MemberSpec(**{**vars(spec), "weights": str(path)})


def snapshot(fit: MemberFit, part: str) -> dict[str, torch.Tensor]:
    state = fit.network.get_submodule(part).state_dict()
    return {k: v.clone() for k, v in state.items() if "num_batches" not in k}


def moved(fit: MemberFit, part: str, before: dict[str, torch.Tensor]) -> set[str]:
    return {k for k, v in snapshot(fit, part).items() if not v.equal(before[k])}


def run_epoch(fit: MemberFit, *, seed: int = 0) -> dict:
    row = fit.fit_epoch([make_batch(seed=seed), make_batch(seed=seed + 1)])
    validation, _ = fit.validate([make_batch(seed=99)])
    fit.end_epoch({**row, **validation})
    return fit.history[-1]


def test_a_frozen_encoder_keeps_weights_and_statistics_then_moves(tmp_path):
    spec = make_spec(tmp_path, pretrained=True)
    fit = MemberFit(spec, make_recipe(frozen_epochs=1), CPU)
    encoder, decoder = snapshot(fit, "encoder"), snapshot(fit, "decoder")
    first = run_epoch(fit)
    assert first["frozen"]
    assert first["learning_rate"] == 1e-5
    assert moved(fit, "encoder", encoder) == set()
    assert moved(fit, "decoder", decoder) == set(decoder)
    second = run_epoch(fit)
    assert not second["frozen"]
    assert second["learning_rate"] == 0.002
    changed = moved(fit, "encoder", encoder)
    assert any("running_mean" in k for k in changed)
    # A U-Net of depth 3 uses the encoder's first two stages; what it uses, moves.
    used = {k for k in encoder if k.startswith(("conv1", "bn1", "layer1", "layer2"))}
    assert used <= changed


@pytest.mark.parametrize("architecture", ["Unet", "DeepLabV3Plus"])
def test_a_frozen_encoder_stays_the_same_to_the_bit(tmp_path, architecture):
    spec = make_spec(tmp_path, architecture=architecture, pretrained=True)
    recipe = make_recipe(freeze_encoder=True, frozen_epochs=1)
    fit = MemberFit(spec, recipe, CPU)
    start = {k: v.clone() for k, v in fit.network.state_dict().items()}
    for seed in (0, 2):
        row = fit.fit_epoch([make_batch(seed=seed, side=64)])
        assert row["frozen"]
        assert row["learning_rate"] == 0.002  # that of new weights, from the first on
        validation, _ = fit.validate([make_batch(seed=99, side=64)])
        fit.end_epoch({**row, **validation})
    now = fit.network.state_dict()
    same = {k for k in now if torch.equal(now[k], start[k])}
    assert same == {k for k in now if k.startswith("encoder.")}
    assert fit.frozen_epochs == recipe.fit.epochs


def test_a_frozen_encoder_costs_no_gradients_states_or_activations(tmp_path):
    spec = make_spec(tmp_path, pretrained=True)
    fit = MemberFit(spec, make_recipe(freeze_encoder=True), CPU)
    seen = []
    fit.network.encoder.register_forward_hook(
        lambda module, inputs, maps: seen.append((module.training, maps[-1]))
    )
    fit.fit_epoch([make_batch()])
    encoder = list(fit.network.encoder.parameters())
    assert all(p.grad is None and p not in fit.optimizer.state for p in encoder)
    decoder = list(fit.network.decoder.parameters())
    assert all(p.grad is not None and p in fit.optimizer.state for p in decoder)
    ((training, deepest),) = seen
    assert not training
    # Nothing of the encoder is kept to go back through: its maps have no history.
    assert deepest.grad_fn is None


def test_a_fit_with_a_frozen_encoder_is_taken_up_as_if_nothing_had_been(tmp_path):
    spec, recipe = (
        make_spec(tmp_path, pretrained=True),
        make_recipe(freeze_encoder=True),
    )
    whole = MemberFit(spec, recipe, CPU)
    run_epoch(whole)
    state = copy.deepcopy(whole.state())
    run_epoch(whole, seed=5)
    again = MemberFit(spec, recipe, CPU)
    again.restore(state)
    run_epoch(again, seed=5)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_workers_of_a_fit_keep_a_frozen_encoder_and_fit_the_rest_as_one(tmp_path):
    spec = MemberSpec(name="m", architecture="tests.tiny:Tiny", seed=3)
    start = build_network(spec).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    command = [sys.executable, "-m", "tests.distributed_fit"]
    workers = [
        subprocess.Popen([*command, str(rank), "2", str(tmp_path)]) for rank in (0, 1)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    one, two = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[k], two[k]) for k in one)
    same = {k for k in one if torch.equal(one[k], start[k])}
    assert same == {k for k in one if k.startswith("encoder.")}


def test_random_weights_are_not_frozen_for_good(tmp_path):
    spec = make_spec(tmp_path, pretrained=False)
    message = r"m: fit\.freeze_encoder = True: the encoder starts from random .*--init"
    with pytest.raises(ValueError, match=message):
        MemberFit(spec, make_recipe(freeze_encoder=True), CPU)
    row = {"name": "m", "architecture": "Unet", "encoder": "resnet18"}
    tree = {"fit": {"freeze_encoder": True}, "members": [row]}
    with pytest.raises(ValueError, match=message):  # before slides are read
        resolve_recipe(tree, init="random")


@pytest.mark.parametrize(
    ("architecture", "pretrained", "epochs", "expected"),
    [
        ("Unet", True, 2, True),
        ("Unet", False, 2, False),
        ("Unet", True, 0, False),
        ("DeepLabV3Plus", True, 2, False),
    ],
)
def test_only_a_pretrained_u_net_is_frozen(
    tmp_path, architecture, pretrained, epochs, expected
):
    spec = make_spec(tmp_path, architecture=architecture, pretrained=False)
    recipe = make_recipe(frozen_epochs=epochs)
    assert freezes(spec, recipe, pretrained=pretrained) is expected


def test_deeplab_moves_from_the_first_epoch_on_gently(tmp_path):
    spec = make_spec(tmp_path, architecture="DeepLabV3Plus", pretrained=True)
    fit = MemberFit(spec, make_recipe(), CPU)
    encoder = snapshot(fit, "encoder")
    row = fit.fit_epoch([make_batch(side=64)])
    assert row["learning_rate"] == 5e-6
    assert not row["frozen"]
    assert len(moved(fit, "encoder", encoder)) > len(encoder) / 2


def test_the_original_schedule_is_the_default():
    spec = FitSpec()

    def rates(*, pretrained: bool, freezes: bool) -> list[float]:
        epochs = (0, 1, 2, 14, 15, 49, 50, 69, 70, 79, 80, 99)
        return [
            spec.learning_rate(e, pretrained=pretrained, freezes=freezes)
            for e in epochs
        ]

    later = [2e-4, 2e-4, 1e-4, 1e-4, 5e-5, 5e-5, 2e-5, 2e-5, 1e-5, 1e-5]
    assert rates(pretrained=True, freezes=True) == [1e-5, 1e-5, *later]
    assert rates(pretrained=True, freezes=False) == [5e-6, 5e-6, *later]
    assert rates(pretrained=False, freezes=False) == [2e-4, 2e-4, *later]


def test_a_fit_learns_and_says_so(tmp_path):
    fit = MemberFit(make_spec(tmp_path, pretrained=False), make_recipe(), CPU)
    for i in range(12):
        row = run_epoch(fit, seed=10 * i)
    assert row["validation_dice"] > 0.9
    assert row["validation_loss"] < fit.history[0]["validation_loss"]
    assert row["patches"] == 8
    assert row["tumor_share"] == 0.5
    assert fit.best_epoch >= 6


def test_taken_up_between_epochs_a_fit_goes_on_as_if_nothing_had_been(tmp_path):
    spec, recipe = make_spec(tmp_path, pretrained=True), make_recipe(frozen_epochs=1)
    whole = MemberFit(spec, recipe, CPU)
    for i in range(3):
        run_epoch(whole, seed=i)
    begun = MemberFit(spec, recipe, CPU)
    run_epoch(begun, seed=0)
    torch.save(begun.state(), tmp_path / "fit.pt")
    resumed = MemberFit(spec, recipe, CPU)
    resumed.restore(torch.load(tmp_path / "fit.pt", weights_only=True))
    for i in (1, 2):
        run_epoch(resumed, seed=i)
    assert resumed.epoch == 3
    for key, value in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[key], value)
    losses = [row["train_loss"] for row in resumed.history]
    assert losses == pytest.approx([row["train_loss"] for row in whole.history])


def test_a_loss_that_is_no_number_stops_the_fit_before_it_spoils_the_weights(tmp_path):
    fit = MemberFit(make_spec(tmp_path, pretrained=False), make_recipe(), CPU)
    before = snapshot(fit, "decoder")
    good, bad = make_batch(), make_batch()
    bad["weight"] = np.full(bad["tumor"].shape, np.nan, np.float32)
    with pytest.raises(FitStopped, match="epoch 0: the loss is nan") as stopped:
        fit.fit_epoch([good, bad])
    assert stopped.value.batch == 1
    state = fit.network.state_dict().values()
    assert all(v.isfinite().all() for v in state if v.is_floating_point())
    assert moved(fit, "decoder", before)  # by the good one


def test_patches_that_could_not_be_read_count_and_stop_a_fit_if_too_many(tmp_path):
    fit = MemberFit(make_spec(tmp_path, pretrained=False), make_recipe(), CPU)
    batch = make_batch()
    batch["weight"][0] = 0
    batch["error"] = np.array(["s.tif: damaged", "", "", ""])
    with pytest.raises(
        FitStopped, match=r"1 of 4 patches could not be read.*; slide s: s.tif: damaged"
    ):
        fit.fit_epoch([batch])
    tolerant = MemberFit(fit.spec, make_recipe(max_failed=0.3), CPU)
    row = tolerant.fit_epoch([batch])
    assert row["failed"] == 1
    assert row["errors"] == {"s": "s.tif: damaged"}


def history(*losses: float) -> list[dict]:
    return [{"validation_loss": loss} for loss in losses]


def test_a_fit_stops_when_the_validation_loss_has_risen_for_long(tmp_path):
    recipe = make_recipe(epochs=9, patience=2)
    fit = MemberFit(make_spec(tmp_path, pretrained=False), recipe, CPU)
    assert not fit.finished
    fit.history = history(3, 1, 2)
    assert not fit.finished
    fit.history = history(3, 1, 2, 1.5)
    assert fit.finished
    assert fit.best_epoch == 1
    fit.history = history(3, 1, 2, 0.5)
    assert not fit.finished
    fit.history = history(*range(9, 0, -1))
    assert fit.finished


def test_validation_counts_a_patch_by_the_tissue_it_stands_for(tmp_path):
    fit = MemberFit(make_spec(tmp_path, pretrained=False), make_recipe(), CPU)
    batch = make_batch()
    batch["area_mm2"] = np.array([3.0, 1.0, 0.0, 0.0])
    _, histogram = fit.validate([batch])
    assert histogram.total == pytest.approx(4)
    tumor = 3 * batch["tumor"][0].mean()
    assert histogram.counts[1].sum() == pytest.approx(tumor)


def test_bfloat16_fits_too(tmp_path):
    recipe = make_recipe(precision="bfloat16")
    fit = MemberFit(make_spec(tmp_path, pretrained=False), recipe, CPU)
    row = run_epoch(fit)
    assert 0 < row["train_loss"] < 2
    assert all(v.dtype == torch.float32 for v in fit.network.parameters())
