"""The original authors' networks and files, held against the same built in Keras."""

import sys
from dataclasses import replace
from io import StringIO

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from digipath_ray.cli.weights import ImportedMember, import_weights, parse_options
from digipath_ray.config.run import (
    ComputeSpec,
    EnsembleSpec,
    GridSpec,
    MemberSpec,
    RunConfig,
)
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import ModelCard, read_card
from digipath_ray.networks.import_weights import import_checkpoint, import_keras
from digipath_ray.networks.normalization import default_normalization
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES
from digipath_ray.networks.original.layers import SameConv2d, SameMaxPool2d
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weights import load_member
from tests import keras_networks

keras = keras_networks.keras  # which has chosen the backend first
layers = keras.layers
DENSE, INCEPTION, DEEPLAB = ORIGINAL_ARCHITECTURES
MID = (128 / 255,) * 3
COUNTED = {"conv2d": 37, "batch_normalization": 12}
"""Names that Keras makes by counting, and where the count of a file begins."""


def card_of(architecture, **changes):
    card = ModelCard(
        name=architecture.removeprefix("Original").lower(),
        architecture=architecture,
        encoder=None,
        options={},
        mpp=0.5,
        patch_px=64,
        mean=MID,
        std=MID,
        training_slides=(),
        training_patients=(),
        license="unknown",
        digest="0" * 64,
    )
    return replace(card, **changes)


def randomize(model, seed=0):
    """Random weights under which every layer matters and the answer is not 0 or 1.

    Statistics are those of random patches, so that nothing vanishes or explodes on the
    way, then shaken, so that each counts.
    """
    rng = np.random.default_rng(seed)
    norms = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(random_values(rng, variable))
    for norm in norms:
        norm.momentum = 0.0  # the moving statistics become the batch's
    patches = torch.cat([noise(64, 96, seed=i) for i in range(4)])
    with torch.no_grad():
        model(normalized(patches), training=True)
    for norm in norms:
        mean, variance = norm.moving_mean.value, norm.moving_variance.value
        # Channels that hardly vary would blow rounding errors up.
        variance = variance.clamp(0.3 * variance.mean())
        shake = torch.from_numpy(rng.normal(0, 0.1, mean.shape)).float()
        norm.moving_mean.assign(mean + shake * variance.sqrt())
        norm.moving_variance.assign(variance * shake.exp())
    return model


def random_values(rng, variable):
    """Small kernels, whose answers vary so little that a wrong epsilon shows."""
    shape = variable.shape
    if variable.name == "kernel":
        depthwise = shape[-1] == 1
        fan_in = np.prod(shape[:2] if depthwise else shape[:3])
        gain = 0.5 if shape[-1] == 2 else 0.1  # the last layer's, the others'
        scale = np.float32(np.sqrt(gain / fan_in))
        return rng.standard_normal(shape, np.float32) * scale
    if variable.name == "gamma":
        return rng.uniform(0.5, 1.5, shape)
    if variable.name == "moving_variance":
        return np.ones(shape)
    return rng.normal(0, 0.2, shape)  # bias, beta, moving_mean


def numpy_of(tensor):
    return tensor.detach().numpy()


def normalized(pixels):
    """Uint8 [B, 3, H, W] as the original feeds it, [B, H, W, 3]."""
    return (pixels.permute(0, 2, 3, 1).float() - 128) / 128


def write_h5(path, model, *, change=lambda found: None, inside=None, parts=1):
    """The model's weights in the layout of tf.keras 1.14, its names and its order.

    ``change`` may spoil them, name -> {weight: values}, before they are written.
    """
    found = {}
    start = first_counts(model)
    for layer in model.layers:
        name = old_name(layer.name, start)
        found[name] = {weight_name(layer, v): numpy_of(v.value) for v in layer.weights}
    change(found)
    with h5py.File(path, "w") as file:
        root = file.create_group(inside) if inside else file
        put_names(root, "layer_names", list(found), parts)
        root.attrs["keras_version"] = b"2.2.4-tf"
        for name, weights in found.items():
            group = root.create_group(name)
            full = {f"{name}/{kind}:0": values for kind, values in weights.items()}
            put_names(group, "weight_names", list(full), 1)
            for weight, values in full.items():
                group.create_dataset(weight, data=values)
    return path


def put_names(group, attribute, names, parts):
    values = np.array(names, "S")
    if parts == 1:
        group.attrs[attribute] = values
        return
    for i, part in enumerate(np.array_split(values, parts)):
        group.attrs[f"{attribute}{i}"] = part


def first_counts(model):
    """The lowest count in the model of each name that is made by counting."""
    counts = {base: [] for base in COUNTED}
    for layer in model.layers:
        base, _, number = layer.name.rpartition("_")
        if layer.name in COUNTED:
            counts[layer.name].append(0)
        elif base in COUNTED and number.isdigit():
            counts[base].append(int(number))
    return {base: min(found, default=0) for base, found in counts.items()}


def old_name(name, start):
    if name in ("conv1_conv", "conv1_bn"):
        return name.replace("_", "/")  # so in tf.keras 1.14
    base, _, number = name.rpartition("_")
    if name in COUNTED:
        base, number = name, "0"
    if base in COUNTED and number.isdigit():
        return f"{base}_{int(number) - start[base] + COUNTED[base]}"
    return name


def weight_name(layer, variable):
    if isinstance(layer, layers.DepthwiseConv2D):
        return "depthwise_kernel"
    return variable.name


def give_weights(model, other):
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        theirs.assign(mine.value)


def posterior_in_keras(model, pixels):
    """Both classes [B, H, W, 2] of uint8 pixels [B, 3, H, W], the original's way."""
    with torch.no_grad():
        return numpy_of(model(normalized(pixels), training=False))


def noise(height, width, seed=3):
    """Random pixels with smooth shapes in them, another each row and column."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (1, 3, height // 16, width // 16))
    smooth = torch.nn.functional.interpolate(
        torch.tensor(coarse).float(), size=(height, width), mode="bicubic"
    )
    rough = smooth + torch.tensor(rng.normal(0, 30, (1, 3, height, width)))
    return rough.clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def models():
    return {
        DENSE: randomize(keras_networks.unet_densenet121()),
        INCEPTION: randomize(keras_networks.unet_inception_resnet_v2()),
        DEEPLAB: randomize(keras_networks.deeplab(64, 96)),
    }


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """The models' .h5 files."""
    folder = tmp_path_factory.mktemp("keras")
    return {
        name: write_h5(folder / f"{name}.h5", model) for name, model in models.items()
    }


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    """The .safetensors files made of them."""
    folder = tmp_path_factory.mktemp("imported")
    found = {}
    for name, path in files.items():
        found[name] = folder / f"{name}.safetensors"
        import_keras(path, found[name], card_of(name))
    return found


def spec_of(path):
    """The member that a file's card tells of."""
    card = read_card(path)
    keys = ("name", "architecture", "options", "digest", "mean", "std")
    said = {key: getattr(card, key) for key in keys}
    return MemberSpec(**said, weights=str(path))


def member_of(path):
    return load_member(spec_of(path))


# --- TensorFlow's padding ---


def row(values):
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1, 2, 3, 4], [1 + 2 + 3, 3 + 4]),  # one zero, on the right
        ([1, 2, 3, 4, 5], [1 + 2, 2 + 3 + 4, 4 + 5]),  # one on either side
    ],
)
def test_stride_2_pads_right_first_as_tensorflow_does(values, want):
    ours = SameConv2d(1, 1, (1, 3), stride=2, bias=False)
    torch.nn.init.ones_(ours.weight)
    assert ours(row(values)).flatten().tolist() == want
    theirs = layers.Conv2D(
        1, (1, 3), 2, padding="same", use_bias=False, kernel_initializer="ones"
    )
    answer = numpy_of(theirs(row(values).permute(0, 2, 3, 1)))
    assert answer.flatten().tolist() == want


def test_a_maximum_at_stride_2_sees_no_padding():
    negative = row([-1, -2, -3, -4]).expand(1, 1, 4, 4)
    assert SameMaxPool2d()(negative)[0, 0, 0].tolist() == [-1, -3]
    theirs = layers.MaxPooling2D(3, strides=2, padding="same")
    answer = numpy_of(theirs(negative.permute(0, 2, 3, 1)))
    assert answer[0, 0, :, 0].tolist() == [-1, -3]


def test_corners_stay_on_corners():
    # 2 inputs at 0 and 1, 4 outputs at 0, 1/3, 2/3 and 1
    want = [[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]]
    np.testing.assert_allclose(keras_networks.corner_weights(2, 4), want, atol=1e-6)


# --- the same answers ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        (DENSE, 64, 96),
        (DENSE, 256, 256),
        (INCEPTION, 64, 96),
        (INCEPTION, 256, 256),
        (DEEPLAB, 64, 96),
    ],
)
def test_an_imported_network_answers_as_in_keras(models, imported, name, height, width):
    pixels = noise(height, width)
    want = posterior_in_keras(models[name], pixels)
    assert want[..., 1].std() > 0.1, "an answer that says something"
    got = member_of(imported[name])(pixels).numpy()
    np.testing.assert_allclose(got, want[..., 1], atol=1e-4)


def test_logits_are_of_other_and_tumor(models, imported):
    pixels = noise(64, 96)
    network = member_of(imported[DENSE]).network
    with torch.inference_mode():
        logits = network((pixels.float() - 128) / 128)
    want = posterior_in_keras(models[DENSE], pixels).transpose(0, 3, 1, 2)
    assert logits.shape == want.shape == (1, 2, 64, 96)
    np.testing.assert_allclose(logits.softmax(1), want, atol=1e-4)


def test_deeplab_at_output_stride_8_answers_as_in_keras(models, files, tmp_path):
    finer = keras_networks.deeplab(64, 96, output_stride=8)
    give_weights(models[DEEPLAB], finer)
    path = tmp_path / "finer.safetensors"
    import_keras(files[DEEPLAB], path, card_of(DEEPLAB, options={"output_stride": 8}))
    pixels = noise(64, 96)
    want = posterior_in_keras(finer, pixels)[..., 1]
    np.testing.assert_allclose(member_of(path)(pixels), want, atol=1e-4)
    coarser = posterior_in_keras(models[DEEPLAB], pixels)[..., 1]
    assert abs(want - coarser).max() > 0.01


def test_files_of_save_and_of_later_keras_are_read_alike(models, imported, tmp_path):
    def spell_anew(found):
        for name in [n for n in found if n.startswith("conv1/")]:
            found[name.replace("/", "_")] = found.pop(name)

    path = write_h5(
        tmp_path / "model.h5",
        models[DENSE],
        change=spell_anew,
        inside="model_weights",
        parts=3,
    )
    import_keras(path, tmp_path / "w.safetensors", card_of(DENSE))
    want = load_file(imported[DENSE])
    got = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_keras_itself_writes_today_is_read(models, imported, tmp_path):
    path = tmp_path / "today.h5"
    models[DENSE].save_weights(tmp_path / "today.weights.h5")
    with pytest.raises(
        ValueError, match=r"no layer_names: .*Keras 3 are not supported"
    ):
        import_keras(
            tmp_path / "today.weights.h5", tmp_path / "w.safetensors", card_of(DENSE)
        )
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, models[DENSE])
    import_keras(path, tmp_path / "w.safetensors", card_of(DENSE))
    want = load_file(imported[DENSE])
    got = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_the_order_in_a_file_is_not_the_order_of_counting(files):
    """What order-based loading is for: parallel branches are listed by depth."""
    with h5py.File(files[INCEPTION]) as file:
        names = [n.decode() for n in file.attrs["layer_names"]]
    counts = [int(n[len("conv2d_") :]) for n in names if n.startswith("conv2d_")]
    assert len(counts) == 203 + 11
    assert counts[:5] == [37, 38, 39, 40, 41]  # the stem, a chain
    assert counts != sorted(counts)


# --- through a run ---


def test_an_import_runs_in_an_ensemble(models, imported):
    members = (spec_of(imported[DENSE]), spec_of(imported[DEEPLAB]))
    config = RunConfig(
        grid=GridSpec(mpp=0.5, patch_px=64, stride_px=64, downsample=16),
        ensemble=EnsembleSpec(tta=("identity",)),
        compute=ComputeSpec(batch_size=2, precision="float32"),
        members=members,
    )
    predictor = EnsemblePredictor(members, config)
    pixels = noise(64, 64)
    blocks = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    maps = predictor.predict_combined(blocks, np.zeros((1, 1, 1), np.int64))
    fitting = keras_networks.deeplab(64, 64)
    give_weights(models[DEEPLAB], fitting)
    answers = [posterior_in_keras(m, pixels) for m in (models[DENSE], fitting)]
    one, other = [a[0, ..., 1].reshape(4, 16, 4, 16).mean((1, 3)) for a in answers]
    np.testing.assert_allclose(maps["probability"][0], (one + other) / 2, atol=1e-4)
    np.testing.assert_allclose(
        maps["epistemic"][0], ((one - other) / 2) ** 2, atol=1e-4
    )


def test_a_run_takes_all_from_the_card(imported):
    config = resolve({}, weights=imported[INCEPTION])
    assert config.members == (spec_of(imported[INCEPTION]),)
    assert (config.grid.mpp, config.grid.patch_px) == (0.5, 64)


# --- the command ---


def run_import(source, out, member, **options):
    text = StringIO()
    code = import_weights(Console(file=text, width=200), source, out, member, **options)
    assert code == 0
    return text.getvalue()


def test_the_command_writes_weights_and_card(files, imported, tmp_path):
    out = tmp_path / "paip-dense.safetensors"
    member = ImportedMember(architecture=DENSE, mpp=0.5, notes="PAIP, fold 3")
    text = run_import(files[DENSE], out, member)
    assert "license unknown" in text
    card = read_card(out)
    assert (card.name, card.mpp, card.patch_px) == ("paip-dense", 0.5, 1024)
    assert (card.mean, card.std) == (MID, MID)
    assert (card.license, card.notes) == ("unknown", "PAIP, fold 3")
    assert out.read_bytes() == imported[DENSE].read_bytes()
    with pytest.raises(ValueError, match="there already; --overwrite"):
        run_import(files[DENSE], out, member)
    run_import(files[DENSE], out, member, overwrite=True)


def test_the_command_takes_a_state_dict_too(tmp_path):
    spec = MemberSpec(
        name="mine",
        architecture="Unet",
        encoder="resnet18",
        options={"decoder_interpolation": "bilinear", "encoder_depth": 3},
    )
    options = ("decoder_interpolation=bilinear", "encoder_depth=3")
    options += ("decoder_channels=[64, 32, 16]",)
    spec = replace(spec, options=parse_options(options))
    torch.save(build_network(spec).state_dict(), tmp_path / "mine.pth")
    member = ImportedMember(
        architecture="Unet",
        encoder="resnet18",
        mpp=0.25,
        options=options,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        license="MIT",
        name="mine",
    )
    out = tmp_path / "w.safetensors"
    text = run_import(tmp_path / "mine.pth", out, member)
    assert "license unknown" not in text
    card = read_card(out)
    assert card.options == spec.options
    assert (card.name, card.std) == ("mine", (0.25, 0.25, 0.25))
    load_member(replace(spec, weights=str(out)))


@pytest.mark.parametrize("text", ["output_stride", "=8", ""])
def test_an_option_is_a_key_and_a_value(text):
    with pytest.raises(ValueError, match="must be KEY=VALUE"):
        parse_options([text])


def test_fitting_may_start_from_pascal_voc(models, imported, tmp_path):
    """Other classes, so another last layer: the command's --new-classifier."""

    def other_classes(found):
        del found["custom_logits_semantic"]
        shapes = {"kernel": (1, 1, 256, 21), "bias": (21,)}
        found["logits_semantic"] = {k: np.zeros(s, "f4") for k, s in shapes.items()}

    path = write_h5(tmp_path / "voc.h5", models[DEEPLAB], change=other_classes)
    out = tmp_path / "voc.safetensors"
    member = ImportedMember(architecture=DEEPLAB, mpp=0.5)
    with pytest.raises(ValueError, match=r"custom_logits_semantic.*--new-classifier"):
        run_import(path, out, member)
    text = run_import(path, out, member, new_classifier=True)
    assert "last layer is random" in text
    assert read_card(out).notes == "The last layer is random: fit before use."
    spec = MemberSpec(name="voc", architecture=DEEPLAB)
    start, file = build_network(spec).state_dict(), load_file(imported[DEEPLAB])
    last = {f"decoder.custom_logits_semantic.{kind}" for kind in ("weight", "bias")}
    for key, tensor in load_file(out).items():
        assert torch.equal(tensor, start[key] if key in last else file[key])


def test_only_deeplab_takes_a_new_classifier(files, tmp_path):
    with pytest.raises(ValueError, match="only OriginalDeepLabV3Plus supports a new"):
        import_keras(
            files[DENSE],
            tmp_path / "w.safetensors",
            card_of(DENSE),
            new_classifier=True,
        )
    member = ImportedMember(architecture=DENSE, mpp=0.5)
    with pytest.raises(ValueError, match=r"--new-classifier: for \.h5 files only"):
        run_import(
            tmp_path / "a.pth", tmp_path / "w.safetensors", member, new_classifier=True
        )


# --- what is refused ---


def spoil_and_import(tmp_path, model, architecture, change):
    path = write_h5(tmp_path / "spoilt.h5", model, change=change)
    try:
        import_keras(path, tmp_path / "w.safetensors", card_of(architecture))
    finally:
        assert not (tmp_path / "w.safetensors").exists()


def remove(name):
    return lambda found: found.pop(name)


def swap(name, kind, axes):
    def change(found):
        found[name][kind] = found[name][kind].transpose(axes)

    return change


def spoil(name, kind):
    def change(found):
        found[name][kind] = np.full_like(found[name][kind], np.nan)

    return change


def lose_bias(found):
    del found["conv2d_37"]["bias"]


def add(found):
    found["dense_1"] = {"kernel": np.zeros((64, 2), np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            remove("conv4_block7_2_conv"),
            r"missing: 1 \(conv4_block7_2_conv\)",
        ),
        (remove("conv1/bn"), r"layers are missing: 1 \(conv1_bn\)"),
        # conv2d_37 is the first, of 320 channels from 1024; conv2d_40 is gone
        (remove("conv2d_40"), r"10 numbered layers, expected 11; .* is conv2d_41"),
        (
            remove("batch_normalization_21"),
            "9 numbered layers, expected 10; .* after the last",
        ),
        (
            swap("conv2d_38", "kernel", (0, 1, 3, 2)),
            r"conv2d_38 .*320, 1344\], exp",
        ),
        (swap("conv1/conv", "kernel", (3, 2, 0, 1)), r"conv1/conv has kernel \[64, 3,"),
        (
            lose_bias,
            r"conv2d_37 has kernel \[3, 3, 1024, 320\], expected bias \[320\], kernel",
        ),
        (spoil("bn", "moving_mean"), r"encoder\.bn\.running_mean holds NaN"),
        (add, r"12 numbered layers, expected 11; .* is dense_1$"),
    ],
)
def test_a_wrong_layer_is_named(models, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        spoil_and_import(tmp_path, models[DENSE], DENSE, change)


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        (
            DENSE,
            INCEPTION,
            r"block35_1_conv, .*looks like OriginalUnetDenseNet121",
        ),
        (INCEPTION, DEEPLAB, "looks like OriginalUnetInceptionResNetV2"),
        (
            DEEPLAB,
            DENSE,
            r"conv1_conv.*looks like OriginalDeepLabV3Plus",
        ),
    ],
)
def test_a_file_of_another_network_is_refused(files, tmp_path, name, wanted, message):
    with pytest.raises(ValueError, match=message):
        import_keras(files[name], tmp_path / "w.safetensors", card_of(wanted))


def test_a_torn_file_is_refused(files, tmp_path):
    whole = files[DENSE].read_bytes()
    torn = tmp_path / "torn.h5"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"torn\.h5: not an HDF5 file, or damaged"):
        import_keras(torn, tmp_path / "w.safetensors", card_of(DENSE))
    torn.write_bytes(b"PK not HDF5")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        import_keras(torn, tmp_path / "w.safetensors", card_of(DENSE))
    with pytest.raises(ValueError, match=r"none\.h5: file not found"):
        import_keras(tmp_path / "none.h5", tmp_path / "w.safetensors", card_of(DENSE))


def test_a_layer_or_weight_that_is_listed_must_be_there(models, tmp_path):
    path = write_h5(tmp_path / "w.h5", models[DENSE])
    with h5py.File(path, "a") as file:
        del file["bn"]["bn"]["beta:0"]
    with pytest.raises(ValueError, match="layer bn lacks its weight bn/beta:0"):
        import_keras(path, tmp_path / "w.safetensors", card_of(DENSE))
    with h5py.File(path, "a") as file:
        del file["bn"]
    with pytest.raises(ValueError, match="layer bn is listed but missing"):
        import_keras(path, tmp_path / "w.safetensors", card_of(DENSE))


def test_a_keras_file_fits_no_other_architecture(files, tmp_path):
    card = card_of("Unet", encoder="resnet18")
    with pytest.raises(ValueError, match=r"original authors' networks alone .*Dense"):
        import_keras(files[DENSE], tmp_path / "w.safetensors", card)


def test_without_h5py_the_error_says_what_to_install(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match="needs h5py: pip install h5py"):
        import_keras(files[DENSE], tmp_path / "w.safetensors", card_of(DENSE))


# --- as members ---


@pytest.mark.parametrize("name", ORIGINAL_ARCHITECTURES)
def test_an_original_is_built_by_its_name(name):
    spec = MemberSpec(name="a", architecture=name)
    assert default_normalization(spec) == (MID, MID)
    (member,) = resolve(
        {"members": [{"name": "a", "architecture": name}], "grid": {"patch_px": 64}},
        weights="random",
    ).members
    assert (member.mean, member.std) == (MID, MID)
    with pytest.raises(ValueError, match=r"member a: .*has its own encoder"):
        build_network(replace(spec, encoder="densenet121"))
    with pytest.raises(ValueError, match=r"member a: .*no ImageNet weights"):
        build_network(replace(spec, weights="imagenet"))


def test_options_of_an_original_are_checked():
    spec = MemberSpec(name="a", architecture=DEEPLAB, options={"output_stride": 32})
    with pytest.raises(ValueError, match=r"member a: output_stride = 32: choose 16 or"):
        build_network(spec)
    with pytest.raises(ValueError, match="unknown option of OriginalDeepLabV3Plus"):
        build_network(replace(spec, options={"stride": 8}))
    message = "unknown option of OriginalUnetDenseNet121 'output_stride'$"
    with pytest.raises(ValueError, match=message):
        build_network(replace(spec, architecture=DENSE))


@pytest.mark.parametrize(
    ("name", "divisor"), [(DENSE, 32), (INCEPTION, 32), (DEEPLAB, 16)]
)
def test_sides_that_cannot_be_halved_are_refused_before_the_run(name, divisor):
    tree = {
        "members": [{"name": "a", "architecture": name}],
        "grid": {"patch_px": 88, "stride_px": 88, "downsample": 8},
    }
    message = rf"cannot take patches of 88 px: .*divisible by {divisor}"
    with pytest.raises(ValueError, match=message):
        resolve(tree, weights="random")


def test_originals_start_from_their_seed():
    spec = MemberSpec(name="a", architecture=DENSE, seed=5)
    one, same = build_network(spec), build_network(spec)
    other = build_network(replace(spec, seed=6))
    key = "decoder.logits.weight"
    assert torch.equal(one.state_dict()[key], same.state_dict()[key])
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])


def test_a_checkpoint_of_an_original_is_imported_as_any_other(imported, tmp_path):
    torch.save(load_file(imported[DENSE]), tmp_path / "fitted.pth")
    out = tmp_path / "fitted.safetensors"
    import_checkpoint(tmp_path / "fitted.pth", out, card_of(DENSE))
    assert out.read_bytes() == imported[DENSE].read_bytes()
