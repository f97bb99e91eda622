"""The four reference networks of MLPerf Tiny as flax modules.

    ds-cnn                keyword spotting       49 x 10 MFCC features        12 words
    mobilenet-v1-0.25     visual wake words      96 x 96 x 3 image            person or not
    fc-autoencoder        anomaly detection      640 log-mel features         their reconstruction
    resnet8               image classification   32 x 32 x 3 image, 0..255    10 classes

Each can be trained (batch normalisation, dropout where the reference has it) and deployed (`folded=True`, with the
parameters of `fold_batch_norm`; `softmax=True` adds the head of the reference classifiers).
Easy to get wrong: convolutions keep their biases although batch normalisation follows; the shortcut convolutions
of resnet8 have no batch normalisation; its input is the raw byte value, not divided by 255.

Source: github.com/mlcommons/tiny, commit 1afd2c9, benchmark/training; Keras defaults for batch normalisation.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from workloads.networks.folding import BATCH_NORM_EPSILON

BATCH_NORM_MOMENTUM = 0.99  # Keras default


class Layer(nn.Module):
    """A convolution or dense layer with bias, batch normalisation (unless folded or absent) and an optional ReLU.

    `kernel=()` is a dense layer; `depthwise` gives one filter for each input channel.
    """

    features: int
    kernel: Sequence[int] = (3, 3)
    strides: int = 1
    depthwise: bool = False
    normalised: bool = True
    relu: bool = True
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`x` is (batch, height, width, channels), or (batch, features) for a dense layer."""
        if not self.kernel:
            x = nn.Dense(self.features, name="linear")(x)
        else:
            groups = x.shape[-1] if self.depthwise else 1
            conv = nn.Conv(self.features, self.kernel, self.strides, padding="SAME", feature_group_count=groups, name="linear")
            x = conv(x)
        if self.normalised and not self.folded:
            norm = nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, name="norm")
            x = norm(x)
        return nn.relu(x) if self.relu else x


def _head(x: jax.Array, n_classes: int, softmax: bool) -> jax.Array:
    """Average pooling over the whole image, a dense layer and, if asked, softmax."""
    x = nn.avg_pool(x, x.shape[1:3])
    x = nn.Dense(n_classes, name="dense")(x.reshape(x.shape[0], -1))
    return nn.softmax(x) if softmax else x


class DSCNN(nn.Module):
    """Depthwise-separable network for keyword spotting; (batch, 49, 10, 1) MFCC features to 12 logits."""

    folded: bool = False
    softmax: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits (batch, 12), probabilities with `softmax`; `train=True` needs a "dropout" key."""
        x = Layer(64, (10, 4), 2, folded=self.folded, name="conv")(x, train)
        x = nn.Dropout(0.2, deterministic=not train)(x)
        for i in range(1, 5):
            x = Layer(64, depthwise=True, folded=self.folded, name=f"depthwise{i}")(x, train)
            x = Layer(64, (1, 1), folded=self.folded, name=f"pointwise{i}")(x, train)
        x = nn.Dropout(0.4, deterministic=not train)(x)
        return _head(x, 12, self.softmax)


class MobileNetV1(nn.Module):
    """MobileNetV1 with a quarter of the filters; (batch, 96, 96, 3) images to 2 logits (person or not)."""

    blocks: Sequence[tuple[int, int]] = (  # filters, stride
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    )
    folded: bool = False
    softmax: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits (batch, 2), probabilities with `softmax`."""
        x = Layer(8, strides=2, folded=self.folded, name="conv")(x, train)
        for i, (filters, stride) in enumerate(self.blocks, 1):
            x = Layer(x.shape[-1], strides=stride, depthwise=True, folded=self.folded, name=f"depthwise{i}")(x, train)
            x = Layer(filters, (1, 1), folded=self.folded, name=f"pointwise{i}")(x, train)
        return _head(x, 2, self.softmax)


class FCAutoencoder(nn.Module):
    """Dense autoencoder; (batch, 640) features (5 frames of 128 mel bands) to their reconstruction."""

    hidden: Sequence[int] = (128, 128, 128, 128, 8, 128, 128, 128, 128)
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Reconstruction (batch, 640)."""
        n_features = x.shape[-1]
        for i, width in enumerate(self.hidden, 1):
            x = Layer(width, kernel=(), folded=self.folded, name=f"dense{i}")(x, train)
        return nn.Dense(n_features, name="dense")(x)


class ResNet8(nn.Module):
    """Three residual stacks of 16, 32 and 64 filters; (batch, 32, 32, 3) images with values 0..255 to 10 logits."""

    filters: int = 16
    folded: bool = False
    softmax: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits (batch, 10), probabilities with `softmax`."""
        x = Layer(self.filters, folded=self.folded, name="conv")(x, train)
        for i in (1, 2, 3):
            width, stride = self.filters * 2 ** (i - 1), 1 if i == 1 else 2
            y = Layer(width, strides=stride, folded=self.folded, name=f"stack{i}a")(x, train)
            y = Layer(width, relu=False, folded=self.folded, name=f"stack{i}b")(y, train)
            if i > 1:
                x = Layer(width, (1, 1), stride, normalised=False, relu=False, name=f"shortcut{i}")(x, train)
            x = nn.relu(x + y)
        return _head(x, 10, self.softmax)
