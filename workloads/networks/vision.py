"""Convolutional networks of the crossbar-scheduling literature as flax modules: detectors, VGG and ResNet.

    tiny-yolo-v3    416 x 416 x 3    13 convolutions    two heads, 13 x 13 and 26 x 26
    tiny-yolo-v4    416 x 416 x 3    21 convolutions    cross-stage partial blocks, two heads
    vgg16, vgg19    224 x 224 x 3    13, 16 convolutions
    resnet50, resnet101, resnet152    224 x 224 x 3    53, 104, 155 convolutions

Without a classifier (`n_classes=0`, the default) VGG and ResNet end in their features: the published crossbar counts
(CLSA-CIM, Pelke et al., DATE 2024) are those of the convolutions alone. With one, VGG has its three dense layers, ResNet one.
Each can be trained and deployed (`folded=True`, with the parameters of `fold_batch_norm`).

Easy to get wrong: ResNet strides in the first 1 x 1 convolution of a block (the original; `stride_first=False` is the later
"v1.5"), and its shortcut comes first; strided convolutions of tiny-yolo-v4 pad above and left only; the last pooling of
tiny-yolo-v3 has stride 1. All convolutions have a bias and normalisation uses the epsilon of `folding`, so that folding is
exact; darknet leaves the bias out where normalisation follows, Keras' ResNet uses epsilon 1.001e-5.

Sources: keras.applications (VGG, ResNet); github.com/AlexeyAB/darknet, cfg/yolov3-tiny.cfg and cfg/yolov4-tiny.cfg.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from workloads.networks.folding import BATCH_NORM_EPSILON

BATCH_NORM_MOMENTUM = 0.99  # Keras default
LEAK = 0.1  # darknet's leaky ReLU
EDGE: Any = ((1, 1), (1, 1))  # flax names only strings as padding of its pooling, and takes pairs too
BOXES = 3  # boxes predicted at each place by each head
Padding = str | Sequence[tuple[int, int]]
Activation = Callable[[jax.Array], jax.Array]


def leaky(x: jax.Array) -> jax.Array:
    """Darknet's activation: x, or 0.1 x below zero."""
    return nn.leaky_relu(x, LEAK)


def upsample(x: jax.Array, factor: int = 2) -> jax.Array:
    """Nearest neighbour: every pixel of (batch, height, width, channels) becomes factor x factor pixels."""
    batch, height, width, channels = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, factor, width, factor, channels))
    return spread.reshape(batch, height * factor, width * factor, channels)


class ConvLayer(nn.Module):
    """A convolution with bias, batch normalisation (unless folded or absent) and an optional activation."""

    features: int
    kernel: int = 3
    strides: int = 1
    padding: Padding = "SAME"
    activation: Activation | None = nn.relu
    normalised: bool = True
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`x` is (batch, height, width, channels)."""
        x = nn.Conv(self.features, (self.kernel, self.kernel), self.strides, padding=self.padding, name="linear")(x)
        if self.normalised and not self.folded:
            x = nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, name="norm")(x)
        return x if self.activation is None else self.activation(x)


class VGG(nn.Module):
    """VGG: blocks of 3 x 3 convolutions, each followed by pooling; (batch, 224, 224, 3) to 25,088 features or logits."""

    depths: Sequence[int] = (2, 2, 3, 3, 3)  # convolutions in each block
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    n_classes: int = 0
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Features (batch, 25088), or logits (batch, n_classes); nothing depends on `train`."""
        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for j in range(1, depth + 1):
                x = ConvLayer(width, normalised=False, name=f"block{i}_conv{j}")(x, train)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        if not self.n_classes:
            return x
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(4096, name=name)(x))
        return nn.Dense(self.n_classes, name="predictions")(x)


class VGG16(VGG):
    """VGG with 13 convolutions."""


class VGG19(VGG):
    """VGG with 16 convolutions."""

    depths: Sequence[int] = (2, 2, 4, 4, 4)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut, which is a convolution in the first block of a stage."""

    width: int
    strides: int = 1
    projected: bool = False
    stride_first: bool = True
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`x` is (batch, height, width, channels); the result has 4 `width` channels."""
        first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
        y, shortcut = x, x
        if self.projected:
            layer = ConvLayer(4 * self.width, 1, self.strides, activation=None, folded=self.folded, name="shortcut")
            shortcut = layer(x, train)
        y = ConvLayer(self.width, 1, first, folded=self.folded, name="conv1")(y, train)
        y = ConvLayer(self.width, 3, second, folded=self.folded, name="conv2")(y, train)
        y = ConvLayer(4 * self.width, 1, activation=None, folded=self.folded, name="conv3")(y, train)
        return nn.relu(shortcut + y)


class ResNet(nn.Module):
    """Deep residual network with bottleneck blocks; (batch, 224, 224, 3) to 2048 features or logits."""

    blocks: Sequence[int] = (3, 4, 6, 3)  # in each stage
    n_classes: int = 0
    stride_first: bool = True
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Features (batch, 2048) averaged over the image, or logits (batch, n_classes)."""
        x = ConvLayer(64, 7, 2, ((3, 3), (3, 3)), folded=self.folded, name="conv1")(x, train)
        x = nn.max_pool(x, (3, 3), (2, 2), EDGE)
        for i, count in enumerate(self.blocks):
            for j in range(count):
                strides = 2 if i > 0 and j == 0 else 1
                block = Bottleneck(64 * 2**i, strides, j == 0, self.stride_first, self.folded, name=f"stage{i + 2}_block{j + 1}")
                x = block(x, train)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.n_classes, name="predictions")(x) if self.n_classes else x


class ResNet50(ResNet):
    """ResNet with 53 convolutions, four of them in shortcuts."""


class ResNet101(ResNet):
    """ResNet with 104 convolutions."""

    blocks: Sequence[int] = (3, 4, 23, 3)


class ResNet152(ResNet):
    """ResNet with 155 convolutions."""

    blocks: Sequence[int] = (3, 8, 36, 3)


class TinyYOLOv3(nn.Module):
    """Detector with a plain backbone; (batch, 416, 416, 3) to two maps of 3 (n_classes + 5) channels."""

    n_classes: int = 80  # COCO
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """The heads (batch, 13, 13, c) and (batch, 26, 26, c), before decoding into boxes."""

        def conv(x: jax.Array, i: int, features: int, kernel: int = 3) -> jax.Array:
            return ConvLayer(features, kernel, activation=leaky, folded=self.folded, name=f"conv{i}")(x, train)

        outputs = BOXES * (self.n_classes + 5)
        for i, features in enumerate((16, 32, 64, 128)):
            x = nn.max_pool(conv(x, i, features), (2, 2), (2, 2))
        middle = conv(x, 4, 256)
        x = conv(nn.max_pool(middle, (2, 2), (2, 2)), 5, 512)
        x = conv(nn.max_pool(x, (2, 2), (1, 1), "SAME"), 6, 1024)
        x = conv(x, 7, 256, 1)
        coarse = _head(conv(x, 8, 512), 9, outputs, self.folded)
        x = jnp.concatenate([upsample(conv(x, 10, 128, 1)), middle], axis=-1)
        return coarse, _head(conv(x, 11, 256), 12, outputs, self.folded)


class TinyYOLOv4(nn.Module):
    """Detector with cross-stage partial blocks; (batch, 416, 416, 3) to two maps of 3 (n_classes + 5) channels."""

    n_classes: int = 80  # COCO
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """The heads (batch, 13, 13, c) and (batch, 26, 26, c), before decoding into boxes."""

        def conv(x: jax.Array, i: int, features: int, kernel: int = 3, strides: int = 1) -> jax.Array:
            padding: Padding = ((1, 0), (1, 0)) if strides > 1 else "SAME"
            layer = ConvLayer(features, kernel, strides, padding, leaky, folded=self.folded, name=f"conv{i}")
            return layer(x, train)

        outputs = BOXES * (self.n_classes + 5)
        x = conv(conv(x, 0, 32, strides=2), 1, 64, strides=2)
        middle = x
        for i, features in ((2, 64), (6, 128), (10, 256)):
            x = conv(x, i, features)
            y = conv(x[..., features // 2 :], i + 1, features // 2)
            y = jnp.concatenate([conv(y, i + 2, features // 2), y], axis=-1)
            middle = conv(y, i + 3, features, 1)
            x = nn.max_pool(jnp.concatenate([x, middle], axis=-1), (2, 2), (2, 2))
        x = conv(conv(x, 14, 512), 15, 256, 1)
        coarse = _head(conv(x, 16, 512), 17, outputs, self.folded)
        x = jnp.concatenate([upsample(conv(x, 18, 128, 1)), middle], axis=-1)
        return coarse, _head(conv(x, 19, 256), 20, outputs, self.folded)


def _head(x: jax.Array, i: int, outputs: int, folded: bool) -> jax.Array:
    """The last 1 x 1 convolution of a detector: linear, not normalised."""
    return ConvLayer(outputs, 1, activation=None, normalised=False, folded=folded, name=f"conv{i}")(x)
