"""Named networks, as published: `workloads.load("gsc-snn")` is the table of one of them.

    gsc-snn       20-256-256-256-35, 200 steps: NeuroBench's spiking network for Google Speech Commands
    gsc-m5        its ordinary rival on the same task, one step
    nmnist-scnn   34 x 34 events of two polarities, one step: the network of spyx's NIR example

Sources: NeuroBench e521c28 (README and leaderboard); spyx 38374e9, docs/examples/nir/scnn.
"""

from workloads.spiking.layers import Conv, Dense, Flatten, Layer, Maximum, Neurons, Pool, Rectifier, Shape, conv_output
from workloads.spiking.networks import SpikingNetwork, chain, spiking_mlp
from workloads.spiking.neurons import IF, Leaky

STEPS = {"gsc-snn": 200, "gsc-m5": 1, "nmnist-scnn": 1}  # time steps of one input, as the published counts take them


def convolution(
    name: str, in_shape: Shape, outputs: int, kernel: Shape, stride: int = 1, padding: int = 0, bias: bool = True
) -> Conv:
    """A convolution with one stride and padding for all dimensions."""
    n = len(kernel)
    space = tuple(conv_output(i, k, stride, (padding, padding), 1) for i, k in zip(in_shape[1:], kernel, strict=True))
    return Conv(name, in_shape, (outputs, *space), bias, kernel, (stride,) * n, ((padding, padding),) * n, (1,) * n)


def gsc_snn() -> SpikingNetwork:
    """NeuroBench's spiking network for Google Speech Commands, 20-256-256-256-35; 200 steps for a second of sound."""
    return spiking_mlp((20, 256, 256, 256, 35), Leaky(beta=0.9), name="gsc-snn")


def nmnist_scnn() -> SpikingNetwork:
    """The convolutional network for N-MNIST that ships with spyx as a NIR file: 34 x 34 events of two polarities."""
    first = convolution("conv1", (2, 34, 34), 16, (5, 5), 2, 1, bias=False)
    second = convolution("conv2", first.shape, 16, (3, 3), 1, 1, bias=False)
    pooled = Pool("pool1", second.shape, (16, 8, 8))
    third = convolution("conv3", pooled.shape, 8, (3, 3), 1, 1, bias=False)
    neuron = IF(reset="zero", semantics="nir")

    def fire(number: int, shape: Shape) -> Neurons:
        return Neurons(f"neurons{number}", shape, shape, neuron=neuron)

    return chain(
        "nmnist-scnn",
        [
            Layer("input", (2, 34, 34), (2, 34, 34)),
            first,
            fire(1, first.shape),
            second,
            fire(2, second.shape),
            pooled,
            third,
            fire(3, third.shape),
            Pool("pool2", third.shape, (8, 4, 4)),
            Flatten("flatten", (8, 4, 4), (128,)),
            Dense("dense1", (128,), (256,), False),
            fire(4, (256,)),
            Dense("dense2", (256,), (10,), False),
            fire(5, (10,)),
        ],
    )


def gsc_m5() -> SpikingNetwork:
    """NeuroBench's ordinary network for the same task: M5 on 8000 samples of sound, batch normalisation folded. No neurons."""
    layers: list[Layer] = [Layer("input", (1, 8000), (1, 8000))]
    for i, (outputs, kernel, stride) in enumerate(((32, 80, 16), (32, 3, 1), (64, 3, 1), (64, 3, 1)), 1):
        conv = convolution(f"conv{i}", layers[-1].shape, outputs, (kernel,), stride)
        pooled = (outputs, conv.shape[1] // 4)
        pool = Maximum(f"pool{i}", conv.shape, pooled)
        layers += [conv, Rectifier(f"relu{i}", conv.shape, conv.shape), pool]
    return chain("gsc-m5", [*layers, Flatten("flatten", (64, 1), (64,)), Dense("dense", (64,), (35,))])


MODELS = {"gsc-snn": gsc_snn, "gsc-m5": gsc_m5, "nmnist-scnn": nmnist_scnn}
