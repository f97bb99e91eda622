"""Task streams: distributions, purity, and what the constructor refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads import TaskStream, default_stream, draw, draw_mean_gap, list_networks

N = 20_000


def many(stream, mean_gap, n=N):
    return jax.vmap(lambda key: draw(stream, key, mean_gap))(jax.random.split(jax.random.key(0), n))


def test_default_stream_covers_the_catalog():
    stream = default_stream()
    assert stream.networks == list_networks()
    tasks = many(stream, 0.5)
    counts = np.bincount(tasks.network, minlength=4)
    # each of four equally likely networks: 5,000 +- 5 standard deviations of 61
    assert np.abs(counts - N / 4).max() < 5 * np.sqrt(N * 0.25 * 0.75)
    assert float(tasks.deadline.min()) >= 0.02 * (1 - 1e-6) and float(tasks.deadline.max()) <= 1.0 * (1 + 1e-6)


def test_gaps_are_exponential():
    gaps = np.asarray(many(default_stream(), 0.5).gap)
    assert abs(gaps.mean() - 0.5) < 5 * 0.5 / np.sqrt(N)
    # memoryless: P(gap > 2 mean) = e^-2
    assert abs((gaps > 1.0).mean() - np.exp(-2)) < 5 * np.sqrt(np.exp(-2) / N)


def test_deadlines_are_log_uniform_per_network():
    stream = TaskStream(("a", "b"), weights=[3.0, 1.0], deadline_lo=[0.1, 2.0], deadline_hi=[10.0, 2.0])
    tasks = many(stream, 1.0)
    of_a, of_b = np.asarray(tasks.deadline)[tasks.network == 0], np.asarray(tasks.deadline)[tasks.network == 1]
    assert abs(len(of_a) / N - 0.75) < 5 * np.sqrt(0.75 * 0.25 / N)
    np.testing.assert_allclose(of_b, 2.0, rtol=1e-6)
    # the median of a log-uniform variable is the geometric mean of its ends
    assert abs((of_a < 1.0).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(of_a))


def test_a_network_of_weight_zero_never_comes():
    tasks = many(TaskStream(("a", "b"), weights=[0.0, 1.0]), 1.0)
    assert (np.asarray(tasks.network) == 1).all()


def test_mean_gap_is_log_uniform():
    gaps = np.asarray(jax.vmap(lambda k: draw_mean_gap(default_stream(), k))(jax.random.split(jax.random.key(1), N)))
    assert 0.03 * (1 - 1e-5) <= gaps.min() and gaps.max() <= 3.0 * (1 + 1e-5)
    assert abs((gaps < 0.3).mean() - 0.5) < 5 * 0.5 / np.sqrt(N)


def test_draws_are_pure_and_compile_once():
    traces = []

    @eqx.filter_jit
    def once(stream, key, mean_gap):
        traces.append(1)
        return draw(stream, key, mean_gap)

    key = jax.random.key(3)
    first = once(TaskStream(("a", "b")), key, jnp.asarray(0.5))
    again = once(TaskStream(("a", "b")), key, jnp.asarray(0.5))
    other = once(TaskStream(("a", "b"), weights=[1, 2], deadline_hi=3), key, jnp.asarray(0.7))
    assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))
    assert len(traces) == 1
    np.testing.assert_allclose(other.gap / first.gap, 0.7 / 0.5, rtol=1e-5)


def test_streams_can_be_batched_over_their_numbers():
    stream = jax.vmap(lambda hi: TaskStream(("a",), deadline_lo=0.1, deadline_hi=hi))(jnp.asarray([0.1, 1.0, 5.0]))
    tasks = jax.vmap(draw, in_axes=(0, None, None))(stream, jax.random.key(0), 1.0)
    assert bool((jnp.diff(tasks.deadline) > 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(networks=()), "one or more different names"),
        (dict(networks=("a", "a")), "one or more different names"),
        (dict(weights=[1.0]), "weights has shape \\(1,\\)"),
        (dict(weights=[-1.0, 1.0]), "not negative"),
        (dict(weights=[0.0, 0.0]), "not all zero"),
        (dict(weights=[np.nan, 1.0]), "finite"),
        (dict(deadline_lo=0.0), r"deadline range = \[0, 1\] s"),
        (dict(deadline_lo=[0.1, 2.0]), r"deadline range = \[2, 1\] s"),
        (dict(gap_hi=np.inf), "positive, finite and ordered"),
        (dict(gap_lo=[0.1, 0.2]), "gap_lo has shape"),
    ],
)
def test_constructor_errors(options, message):
    with pytest.raises(ValueError, match=message) as error:
        TaskStream(**({"networks": ("a", "b")} | options))
    assert "\n" not in str(error.value)
