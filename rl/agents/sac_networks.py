"""Actor and twin critics of soft actor-critic as multilayer perceptrons.

States are columns, as in `networks`: the innermost axis of every product is the batch. The two critics differ only in
their starting weights; their layers are stacked, [2, outputs, inputs], so that one product serves both.

The critic is Q(s, k, x): the amount enters the first layer through weights of its own choice, and the value leaves
through a head of its own choice, so an amount meant for another choice can never change a value. (One network fed with
the amounts of all choices at once has that fault: Bester et al., "Multi-pass Q-networks", arXiv 1905.04388.) The product
of the first layer with the state is made once for all choices. Rectified linear units between layers; weights start
LeCun-normal, biases at zero.
"""

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from rl.agents.sac_distributions import ActionDistribution, bounded_log_std


@jax.custom_vjp
def product(
    kernel: Float[Array, "*stack outputs inputs"], columns: Float[Array, "*own inputs batch"]
) -> Float[Array, "*stack outputs batch"]:
    """kernel @ columns, with the columns shared by a stack of kernels or one set for each of it.

    Its derivative by rule (reverse mode only) is written as products whose innermost axis is the batch, too. The one that
    JAX derives has the batch in front wherever a layer is a single unit wide, and an update then takes half as long again.
    """
    return kernel @ columns


def product_forward(kernel: Array, columns: Array) -> tuple[Array, tuple[Array, Array]]:
    """The product, and what its derivative needs."""
    return kernel @ columns, (kernel, columns)


def product_backward(known: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    """Slopes by kernel and by columns: g x^T, and K^T g summed over the stack where the columns are shared."""
    kernel, columns = known
    slope = jax.lax.optimization_barrier(slope)  # else what made it is made again for every unit of the layer below
    if kernel.ndim > columns.ndim:
        by_columns = kernel.reshape(-1, kernel.shape[-1]).T @ slope.reshape(-1, slope.shape[-1])
    else:
        by_columns = jnp.swapaxes(kernel, -1, -2) @ slope
    return slope @ jnp.swapaxes(columns, -1, -2), by_columns


product.defvjp(product_forward, product_backward)


class StackedDense(nn.Module):
    """y_i = W_i x_i + b_i for the networks i of a stack; `stack` is its shape, () for a single network.

    `columns` without the axis of the stack are shared by all of it.
    """

    width: int
    stack: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, columns: Float[Array, "*own inputs batch"]) -> Float[Array, "*stack outputs batch"]:
        """The layer's output, one column per state."""
        start = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2, batch_axis=tuple(range(len(self.stack))))
        kernel = self.param("kernel", start, (*self.stack, self.width, columns.shape[-2]), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (*self.stack, self.width, 1), jnp.float32)
        return product(kernel, columns) + bias


class Actor(nn.Module):
    """pi(. | s): `choices` log-probabilities, and mean and log std of `dims` amounts for each."""

    choices: int
    dims: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, features: Float[Array, "features batch"]) -> ActionDistribution:
        """The distribution at each column."""
        columns = features
        for number, width in enumerate(self.hidden):
            columns = jax.nn.relu(StackedDense(width, name=f"hidden_{number}")(columns))
        logits, amounts = self.choices if self.choices > 1 else 0, self.choices * self.dims
        head = StackedDense(logits + 2 * amounts, name="head")(columns)
        shape = (self.choices, self.dims, features.shape[-1])
        log_choice = jax.nn.log_softmax(head[:logits], axis=0) if logits else jnp.zeros((1, features.shape[-1]), head.dtype)
        mean, log_std = head[logits : logits + amounts], bounded_log_std(head[logits + amounts :])
        return ActionDistribution(log_choice, mean.reshape(shape), log_std.reshape(shape))


class TwinCritic(nn.Module):
    """Both Q(s, k, x) of every head k, for one or several amounts at each state; `known_scale` as in `DuelingQNetwork`."""

    choices: int
    dims: int
    hidden: tuple[int, ...]
    known_scale: float | None = None

    @nn.compact
    def __call__(
        self, features: Float[Array, "features batch"], amounts: Float[Array, "slots passes batch"]
    ) -> Float[Array, "2 choices passes batch"]:
        """Values of all heads; `amounts` has choices x dims slots, zero but for the choice it belongs to."""
        passes, batch = amounts.shape[1:]
        columns = StackedDense(self.hidden[0], (2,), name="hidden_0")(features)
        if self.dims:
            start = nn.initializers.normal((features.shape[0] + self.dims) ** -0.5)
            kernel = self.param("amount_kernel", start, (2, self.hidden[0], amounts.shape[0]), jnp.float32)
            by_amount = product(kernel, amounts.reshape(-1, passes * batch))
            columns = (columns[:, :, None] + by_amount.reshape(2, -1, passes, batch)).reshape(by_amount.shape)
        columns = jax.nn.relu(columns)
        for number, width in enumerate(self.hidden[1:], start=1):
            columns = jax.nn.relu(StackedDense(width, (2,), name=f"hidden_{number}")(columns))
        values = StackedDense(self.choices, (2,), name="head")(columns).reshape(2, self.choices, passes, batch)
        return values if self.known_scale is None else values + self.known_scale * features[-self.choices :, None]


def twin_values(
    critic: TwinCritic, params: PyTree, features: Float[Array, "features batch"], amounts: Float[Array, "choices dims batch"]
) -> Float[Array, "2 choices batch"]:
    """Both Q(s, k, x_k) of every choice k with its own amount x_k."""
    choices, dims, batch = amounts.shape
    if dims == 0 or choices == 1:
        return cast(jax.Array, critic.apply(params, features, amounts.reshape(-1, 1, batch)))[:, :, 0]
    # pass p holds the amount of choice p in the slots of that choice, and nothing elsewhere
    slots = jnp.einsum("kp,kdb->kdpb", jnp.eye(choices, dtype=amounts.dtype), amounts).reshape(-1, choices, batch)
    values = cast(jax.Array, critic.apply(params, features, slots))
    return jnp.einsum("tkkb->tkb", values)


def twin_values_of(
    critic: TwinCritic,
    params: PyTree,
    features: Float[Array, "features batch"],
    choice: Int[Array, " batch"],
    amount: Float[Array, "dims batch"],
) -> Float[Array, "2 batch"]:
    """Both Q(s, k, x) of one choice k with one amount x at each state."""
    chosen = jax.nn.one_hot(choice, critic.choices, axis=0, dtype=features.dtype)
    slots = (chosen[:, None] * amount).reshape(-1, 1, features.shape[-1])
    values = cast(jax.Array, critic.apply(params, features, slots))[:, :, 0]
    return jnp.sum(values * chosen, axis=1)
