"""Training steps and loop nests: counts by hand, phases, storage that is updated in place, and tiles of whole tensors."""

import math
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads import load, load_program, trace_program, training_graph
from workloads.loop_axes import WHOLE

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

NAMES = ("fc-autoencoder", "ds-cnn", "resnet8", pytest.param("mobilenet-v1-0.25", marks=pytest.mark.slow))


class Steps(dict):
    def __missing__(self, name):
        self[name] = training_graph(name)
        return self[name]


@pytest.fixture(scope="module")
def steps():
    """Training steps, traced once each when they are asked for."""
    return Steps()


class Heads(nn.Module):
    """Two results, 3 and 5 features wide."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x), nn.Dense(5)(x)


def test_losses_of_several_results_add_up():
    """Forward 4 x (3 + 5) products, the gradients of the weights as many; the input needs none."""
    step = training_graph(Heads(), (4,), update=False)
    assert step.ops.total("macs") == 2 * 4 * (3 + 5)
    assert {nest.operator for nest in step.nests if nest.phase == "loss"} == {"MSELoss"}


@pytest.mark.parametrize("network", ["gsc-snn", "nmnist-scnn"])
def test_only_flax_modules_are_trained(network):
    with pytest.raises(ValueError, match=f"{network} is a SpikingNetwork; a training step is made of flax modules only"):
        training_graph(network)


def phase(program, name):
    return [(nest, row) for row, nest in enumerate(program.nests) if nest.phase == name]


def test_dense_layers_cost_three_times_the_forward_pass(steps):
    """Gradients of weights and of inputs are products of the same size; the first layer's input needs none.

    640 x 128 + 3 x 128 x 128 + 128 x 8 + 8 x 128 + 3 x 128 x 128 + 128 x 640 = 264,192 = f;  3 f - 640 x 128 = 710,656
    """
    step = steps["fc-autoencoder"]
    assert load("fc-autoencoder").total("macs") == 264_192 and step.ops.total("macs") == 710_656
    macs = Counter()
    for nest in step.nests:
        macs[nest.phase] += nest.macs
    assert macs["forward"] == 264_192 and macs["backward"] == 446_464


def test_phases_and_operators(steps):
    """20 parameters each of 10 layers: accumulated and updated once each, in place."""
    for name, layers in (("fc-autoencoder", 10), ("ds-cnn", 10), ("resnet8", 10)):
        step = steps[name]
        kinds = Counter(nest.operator for nest in step.nests)
        assert kinds["InPlaceAccumulatorV2"] == kinds["SGD"] == 2 * layers
        for operator, where in (("InPlaceAccumulatorV2", "accumulate"), ("SGD", "update")):
            assert {nest.phase for nest in step.nests if nest.operator == operator} == {where}
            for nest, _ in phase(step, where):
                written = next(a.tensor for a in nest.accesses if a.write)
                assert step.tensors[step.tensors[written].alias].role in ("input", "weight")
    convs = Counter(nest.operator for nest in steps["resnet8"].nests)
    assert convs["Conv"] == convs["ConvGradW"] == 9 and convs["ConvGradX"] == 8  # the image needs no gradient
    assert Counter(n.operator for n in training_graph("ds-cnn", update=False, accumulate=False).nests)["SGD"] == 0


def test_convolution_gradients_by_hand(steps):
    """ResNet8's last 3 x 3 layer, 64 to 64 channels on 8 x 8: 9 x 64 x 64 x 64 products forward, for x and for the weight."""
    grads = [
        n for n in steps["resnet8"].nests if n.operator in ("ConvGradX", "ConvGradW") and n.name.startswith("ResNet8/stack3b")
    ]
    assert sorted(n.operator for n in grads) == ["ConvGradW", "ConvGradX"] and {n.macs for n in grads} == {9 * 64 * 64 * 64}
    wide = next(n for n in grads if n.operator == "ConvGradX")
    assert wide.extents == (8, 8, 64)
    image = wide.accesses[0].axes
    assert [(u.loop, u.scale, u.offset) for u in image] == [(0, 1, 2), (1, 1, 2), (WHOLE, 1, 0)]  # 3 x 3: a halo of two


def parts(access, tile):
    return [
        u.extent if u.loop == WHOLE else max(1, min(u.extent, math.ceil(u.scale * tile[u.loop] + u.offset - 1e-3)))
        for u in access.axes
    ]


@pytest.mark.parametrize("name", NAMES)
def test_nests_are_the_table_and_the_whole_tile_is_the_tensor(steps, name):
    """Products as the table counts them; a tile of everything touches all of each operand (but what strides skip)."""
    step = steps[name]
    assert len(step.nests) == step.ops.n_ops
    layers = {"mobilenet-v1-0.25": 28}.get(name, 10)
    assert sum(nest.operator == "SGD" for nest in step.nests) == 2 * layers
    rng = np.random.default_rng(0)
    for row, nest in enumerate(step.nests):
        assert nest.macs * nest.repeat == step.ops.macs[row]
        for access in nest.accesses:
            tensor = step.tensors[access.tensor]
            assert math.prod(u.extent for u in access.axes) == tensor.elements
            assert tensor.first <= row <= tensor.last or tensor.role == "output"
            whole = parts(access, nest.extents)
            assert math.prod(whole) == tensor.elements or any(u.scale > 1 and u.loop != WHOLE for u in access.axes)
            tile = [int(rng.integers(1, e + 1)) for e in nest.extents]
            assert all(p <= q for p, q in zip(parts(access, tile), whole, strict=True))
        loops = [u.loop for a in nest.accesses if a.write for u in a.axes]
        assert set(range(len(nest.extents))) <= {*loops, *([0] if nest.extents == (1,) else [])}


def test_parameters_are_held_once(steps):
    """Also where the backward pass reads a kernel transposed."""
    weights = [t for t in steps["resnet8"].tensors if t.role == "weight"]
    assert sum(t.elements for t in weights) == load("resnet8").info.parameters == 77_706
    assert len({t.name for t in weights}) == len(weights)


def test_any_flax_module_and_both_losses():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(2)(x))
            return nn.Dense(3)(x.mean(axis=1))

    step = training_graph(Attention(), (6, 8), batch=2)
    found = Counter(nest.phase for nest in step.nests)
    assert set(found) == {"forward", "loss", "loss_grad", "backward", "accumulate", "update"}
    assert not step.ops.info.uncounted
    assert training_graph(nn.Dense(4), (4,)).nests[-1].operator == "SGD"
    assert any(n.operator.startswith("MSELoss") for n in training_graph(nn.Dense(4), (4,)).nests)  # as wide as its input
    assert any(
        n.operator.startswith("SoftmaxCrossEntropyLoss") for n in training_graph(nn.Dense(4), (4,), loss="cross_entropy").nests
    )


@pytest.mark.slow
def test_normalisation_is_trained_where_asked():
    """In batches of four: four times the products, and operations for the statistics."""
    trained = training_graph("fc-autoencoder", normalised=True, batch=4)
    assert trained.ops.total("macs") == 4 * 710_656 and len(trained.nests) > len(training_graph("fc-autoencoder").nests)


def test_deployed_programs():
    program = load_program("kws")
    assert program.ops.total("macs") == load("kws").total("macs") and program.nests[-1].operator == "Softmax"
    depthwise = [n for n in program.nests if n.depthwise]
    assert len(depthwise) == 4 and depthwise[0].extents == (25, 5, 64)
    product = trace_program(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), *(jax.ShapeDtypeStruct((2, 3, 3), float),) * 2)
    assert product.nests[0].operator == "MatMul" and product.nests[0].extents == (2, 3, 3)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: training_graph("resnet9"), "unknown network 'resnet9'"),
        (lambda: training_graph("resnet8", loss="hinge"), "unknown loss 'hinge'; known: cross_entropy, mse"),
        (lambda: training_graph("resnet8", batch=0), "batch = 0 inputs is outside its range [1, inf)"),
        (lambda: training_graph(nn.Dense(4)), "Dense: input_shape is missing"),
    ],
    ids=range(4),
)
def test_bad_input_is_one_line(call, expected):
    with pytest.raises(ValueError) as caught:
        call()
    assert expected in str(caught.value) and "\n" not in str(caught.value)
