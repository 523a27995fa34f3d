"""The original authors' networks built in Keras, for test_original to compare with.

Written from their published definitions, layer by layer, in Keras's own words, so that
nothing is shared with what is tested.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read once, at the import

import keras
import numpy as np
from keras import layers, ops

EPS = 1e-5
"""Of the normalizations behind DeepLab's encoder."""


def unet_densenet121():
    base = keras.applications.DenseNet121(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    ends = ["conv1_relu", "conv2_block6_concat", "conv3_block12_concat"]
    ends += ["conv4_block24_concat", "bn"]  # not "relu", which follows bn
    features = [base.get_layer(name).output for name in ends]
    return keras.Model(base.input, decoder(features))


def decoder(features):
    x = features[-1]
    skips = [*features[-2::-1], None]
    for width, skip in zip((320, 256, 128, 96, 64), skips, strict=True):
        x = conv_norm_relu(layers.UpSampling2D()(x), width)
        if skip is not None:
            x = layers.Concatenate()([x, skip])
        x = conv_norm_relu(x, width)
    return layers.Conv2D(2, 1, activation="softmax")(x)


def conv_norm_relu(x, width):
    x = layers.Conv2D(width, 3, padding="same")(x)
    return layers.Activation("relu")(layers.BatchNormalization()(x))


# --- Inception-ResNet-V2 ---


def unet_inception_resnet_v2():
    pixels = layers.Input((None, None, 3))
    x = chain(pixels, (32, 3), stride=2)
    half = chain(x, (32, 3), (64, 3))
    fourth = chain(max_pool(half), (80, 1), (192, 3))
    x = mixed_5b(max_pool(fourth))
    for i in range(1, 11):
        x = residual(x, f"block35_{i}", BLOCK35, scale=0.17)
    eighth = x
    branches = [chain(x, (384, 3), stride=2)]
    branches += [chain(x, (256, 1), (256, 3), (384, 3), stride=2), max_pool(x)]
    x = layers.Concatenate(name="mixed_6a")(branches)
    for i in range(1, 21):
        x = residual(x, f"block17_{i}", BLOCK17, scale=0.1)
    sixteenth = x
    x = mixed_7a(x)
    for i in range(1, 10):
        x = residual(x, f"block8_{i}", BLOCK8, scale=0.2)
    x = residual(x, "block8_10", BLOCK8, scale=1.0, relu=False)
    x = layers.Conv2D(1536, 1, use_bias=False, name="conv_7b")(x)
    x = layers.BatchNormalization(scale=False, name="conv_7b_bn")(x)
    last = layers.Activation("relu", name="conv_7b_ac")(x)
    return keras.Model(pixels, decoder([half, fourth, eighth, sixteenth, last]))


BLOCK35 = [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]]
BLOCK17 = [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]]
BLOCK8 = [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]]


def chain(x, *steps, stride=1):
    """Convolution, normalization without scale, ReLU; the last one with the stride."""
    for i, (width, kernel) in enumerate(steps):
        strides = stride if i == len(steps) - 1 else 1
        x = layers.Conv2D(
            width, kernel, strides=strides, padding="same", use_bias=False
        )(x)
        x = layers.Activation("relu")(layers.BatchNormalization(scale=False)(x))
    return x


def max_pool(x):
    return layers.MaxPooling2D(3, strides=2, padding="same")(x)


def residual(x, name, branches, *, scale, relu=True):
    found = layers.Concatenate()([chain(x, *steps) for steps in branches])
    found = layers.Conv2D(x.shape[-1], 1, padding="same", name=f"{name}_conv")(found)
    x = layers.Lambda(lambda pair: pair[0] + pair[1] * scale, name=name)([x, found])
    return layers.Activation("relu", name=f"{name}_ac")(x) if relu else x


def mixed_5b(x):
    branches = [chain(x, (96, 1)), chain(x, (48, 1), (64, 5))]
    branches.append(chain(x, (64, 1), (96, 3), (96, 3)))
    average = layers.AveragePooling2D(3, strides=1, padding="same")(x)
    return layers.Concatenate(name="mixed_5b")([*branches, chain(average, (64, 1))])


def mixed_7a(x):
    branches = [chain(x, (256, 1), (384, 3), stride=2)]
    branches.append(chain(x, (256, 1), (288, 3), stride=2))
    branches.append(chain(x, (256, 1), (288, 3), (320, 3), stride=2))
    return layers.Concatenate(name="mixed_7a")([*branches, max_pool(x)])


# --- DeepLabV3+ ---


def deeplab(height, width, *, output_stride=16, classes=2):
    """Of one size, as in the original; the last layer's name tells the classes."""
    fine = output_stride == 8
    pixels = layers.Input((height, width, 3))
    x = layers.Conv2D(
        32, 3, strides=2, padding="same", use_bias=False, name="entry_flow_conv1_1"
    )(pixels)
    x = norm_relu(x, "entry_flow_conv1_1")
    x = layers.Conv2D(64, 3, padding="same", use_bias=False, name="entry_flow_conv1_2")(
        x
    )
    x = norm_relu(x, "entry_flow_conv1_2")
    x, _ = block(x, [128] * 3, "entry_flow_block1", stride=2)
    x, fourth = block(x, [256] * 3, "entry_flow_block2", stride=2)
    x, _ = block(x, [728] * 3, "entry_flow_block3", stride=1 if fine else 2)
    for i in range(1, 17):
        name = f"middle_flow_unit_{i}"
        x, _ = block(x, [728] * 3, name, rate=2 if fine else 1, shortcut="sum")
    x, _ = block(x, [728, 1024, 1024], "exit_flow_block1", rate=2 if fine else 1)
    for i, filters in enumerate((1536, 1536, 2048), start=1):
        name = f"exit_flow_block2_separable_conv{i}"
        x = separable(x, filters, name, rate=4 if fine else 2)
    x = pyramid(x, (12, 24, 36) if fine else (6, 12, 18))
    x = align_corners(layers.Dropout(0.1)(x), height // 4, width // 4)
    skip = layers.Conv2D(48, 1, use_bias=False, name="feature_projection0")(fourth)
    x = layers.Concatenate()([x, norm_relu(skip, "feature_projection0", EPS)])
    x = separable(x, 256, "decoder_conv0", eps=EPS)
    x = separable(x, 256, "decoder_conv1", eps=EPS)
    name = "custom_logits_semantic" if classes == 2 else "logits_semantic"
    x = align_corners(layers.Conv2D(classes, 1, name=name)(x), height, width)
    return keras.Model(pixels, layers.Activation("softmax")(x))


def norm_relu(x, name, eps=1e-3):
    x = layers.BatchNormalization(epsilon=eps, name=f"{name}_BN")(x)
    return layers.Activation("relu")(x)


def separable(x, filters, name, *, stride=1, rate=1, eps=1e-3, relu_first=False):
    padding = "same"
    if stride > 1:
        x, padding = layers.ZeroPadding2D(rate)(x), "valid"
    if relu_first:
        x = layers.Activation("relu")(x)
    x = layers.DepthwiseConv2D(
        3,
        strides=stride,
        dilation_rate=rate,
        padding=padding,
        use_bias=False,
        name=f"{name}_depthwise",
    )(x)
    x = layers.BatchNormalization(epsilon=eps, name=f"{name}_depthwise_BN")(x)
    if not relu_first:
        x = layers.Activation("relu")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
    x = layers.BatchNormalization(epsilon=eps, name=f"{name}_pointwise_BN")(x)
    return x if relu_first else layers.Activation("relu")(x)


def block(x, filters, name, *, stride=1, rate=1, shortcut="conv"):
    found = []
    y = x
    for i, width in enumerate(filters):
        y = separable(
            y,
            width,
            f"{name}_separable_conv{i + 1}",
            stride=stride if i == 2 else 1,
            rate=rate,
            relu_first=True,
        )
        found.append(y)
    if shortcut == "conv":
        x = layers.Conv2D(
            filters[-1], 1, strides=stride, use_bias=False, name=f"{name}_shortcut"
        )(x)
        x = layers.BatchNormalization(name=f"{name}_shortcut_BN")(x)
    return layers.Add()([y, x]), found[1]


def pyramid(x, rates):
    _, height, width, _ = x.shape
    mean = layers.GlobalAveragePooling2D(keepdims=True)(x)
    mean = layers.Conv2D(256, 1, use_bias=False, name="image_pooling")(mean)
    mean = align_corners(norm_relu(mean, "image_pooling", EPS), height, width)
    point = layers.Conv2D(256, 1, use_bias=False, name="aspp0")(x)
    branches = [mean, norm_relu(point, "aspp0", EPS)]
    for i, rate in enumerate(rates, start=1):
        branches.append(separable(x, 256, f"aspp{i}", rate=rate, eps=EPS))
    x = layers.Concatenate()(branches)
    x = layers.Conv2D(256, 1, use_bias=False, name="concat_projection")(x)
    return norm_relu(x, "concat_projection", EPS)


def align_corners(x, height, width):
    """Bilinear: output i is read at i * (n - 1) / (m - 1) of n inputs, m outputs."""
    down = corner_weights(x.shape[1], height)
    right = corner_weights(x.shape[2], width)
    return layers.Lambda(
        lambda t: ops.einsum(
            "hi,biwc->bhwc", down, ops.einsum("vw,biwc->bivc", right, t)
        )
    )(x)


def corner_weights(n, m):
    """[m, n]: what each input gives to each output; hats around the inputs."""
    at = np.arange(m) * (n - 1) / (m - 1)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(n))).astype(np.float32)
