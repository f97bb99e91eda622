"""Task streams: distributions, bursts against their analytic dispersion, purity, and what the constructors refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads import Burst, TaskStream, default_stream, draw, draw_mean_gap, draw_phase, list_networks, load, profile

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
    assert all(bool(a == b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))
    assert len(traces) == 1
    np.testing.assert_allclose(other.gap / first.gap, 0.7 / 0.5, rtol=1e-5)


def test_streams_can_be_batched_over_their_numbers():
    stream = jax.vmap(lambda hi: TaskStream(("a",), deadline_lo=0.1, deadline_hi=hi))(jnp.asarray([0.1, 1.0, 5.0]))
    tasks = jax.vmap(draw, in_axes=(0, None, None))(stream, jax.random.key(0), 1.0)
    assert bool((jnp.diff(tasks.deadline) > 0).all())


def arrivals(burst, count, lanes, mean_gap=2.0):
    """Gaps (lanes, count) of many episodes of one stream, and whether each of their tasks came in a burst."""
    stream = TaskStream(("a", "b"), burst=burst)

    def episode(key):
        def body(phase, key):
            drawn = draw(stream, key, mean_gap, phase)
            return drawn.bursting, (drawn.gap, phase)

        first, rest = jax.random.split(key)
        return jax.lax.scan(body, draw_phase(stream, first), jax.random.split(rest, count))[1]

    gaps, phases = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(2), lanes))
    return np.asarray(gaps, np.float64), np.asarray(phases)


BURST = Burst(ratio=8.0, share=0.15, length=6.0)


@pytest.fixture(scope="module")
def bursty():
    return arrivals(BURST, 400, 1000)


def test_bursts_keep_the_mean_gap_and_have_their_share_of_the_tasks(bursty):
    gaps, phases = bursty
    # episodes are independent: the mean of their means, within 5 standard errors
    means = gaps.mean(axis=1)
    assert abs(means.mean() - 2.0) < 5 * means.std() / np.sqrt(len(means))
    # 0.15 of the time at 8 times the rate: 0.15 x 8 / (0.15 x 8 + 0.85) = 0.5854 of the tasks, from the first task on
    share = phases.mean(axis=1)
    assert abs(share.mean() - 1.2 / 2.05) < 5 * share.std() / np.sqrt(len(share))
    assert abs(phases[:, 0].mean() - 1.2 / 2.05) < 5 * 0.5 / np.sqrt(len(phases))


@pytest.mark.parametrize("span", [2.0, 20.0, 100.0])
def test_bursts_have_the_analytic_index_of_dispersion(bursty, span):
    # arrivals within windows of `span` mean gaps that begin at a fixed time, not at an arrival: from 100 mean gaps on
    times = np.cumsum(bursty[0], axis=1) / 2.0
    starts = np.arange(100.0, 300.0 - span, span)
    counts = np.stack([((times >= t) & (times < t + span)).sum(axis=1) for t in starts], axis=1).astype(float)
    assert abs(counts.mean() / span - 1) < 0.03
    per_group = [group.var() / group.mean() for group in np.array_split(counts, 20)]
    error = np.std(per_group) / np.sqrt(20)
    assert abs(np.mean(per_group) - float(BURST.dispersion(span))) < 4 * error + 0.02 * float(BURST.dispersion(span))


def test_the_index_of_dispersion_by_hand():
    # ratio 3, share 1/2: rates 1/2 and 3/2 per mean gap; length 6: a burst ends at 1/4, and begins at 1/4. With q = 1/2:
    # 1 + 2 x 1^2 x 1/4 / (1/2) = 2 in the long run; within a time of 2 mean gaps, q t = 1: 1 + 1 x (1 - (1 - 1/e)) = 1 + 1/e
    burst = Burst(ratio=3.0, share=0.5, length=6.0)
    assert float(burst.dispersion()) == pytest.approx(2.0, rel=1e-5)
    assert float(burst.dispersion(2.0)) == pytest.approx(1 + np.exp(-1), rel=1e-5)
    assert float(Burst(ratio=1.0).dispersion()) == 1.0


def test_a_burst_of_ratio_one_is_a_poisson_stream():
    gaps = arrivals(Burst(ratio=1.0, share=0.3, length=3.0), 50, 400, mean_gap=0.5)[0].ravel()
    assert abs(gaps.mean() - 0.5) < 5 * 0.5 / np.sqrt(gaps.size)
    assert abs((gaps > 1.0).mean() - np.exp(-2)) < 5 * np.sqrt(np.exp(-2) / gaps.size)


def test_bursts_change_only_when_tasks_come():
    calm, bursty = TaskStream(("a", "b")), TaskStream(("a", "b"), burst=BURST)
    key = jax.random.key(5)
    assert draw_phase(calm, key) is None and draw(calm, key, 1.0).bursting is None
    one, other = draw(calm, key, 1.0), draw(bursty, key, 1.0, 1.0)
    assert int(one.network) == int(other.network) and float(one.deadline) == float(other.deadline)
    with pytest.raises(ValueError, match="bursting is None"):
        draw(bursty, key, 1.0)


def test_any_workload_makes_a_stream():
    def product(a, b):
        return a @ b

    own = profile(product, jnp.ones((3, 4)), jnp.ones((4, 5)))
    stream = TaskStream({"own": own, "kws": "ds-cnn", "other": (product, jnp.ones((2, 4)), jnp.ones((4, 5)))})
    assert stream.networks == ("own", "kws", "other")
    tables = stream.tables()
    assert float(np.sum(tables[0].macs)) == 60  # 3 x 4 x 5
    np.testing.assert_array_equal(tables[1].macs, load("ds-cnn").macs)
    assert float(np.sum(tables[2].macs)) == 40
    assert [t.n_ops for t in TaskStream(("resnet8",)).tables()] == [load("resnet8").n_ops]
    with pytest.raises(ValueError, match="unknown network 'resnet9'; close: resnet8"):
        TaskStream({"mine": "resnet9"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ratio=0.5), r"^Burst.ratio = 0.5 is outside its range \[1, 1e\+06\)$"),
        (dict(share=1.0), r"^Burst.share = 1 is outside its range \(0, 1\)$"),
        (dict(share=np.nan), r"^Burst.share = nan is outside its range \(0, 1\)$"),
        (dict(length=0.0), r"^Burst.length = 0 is outside its range \(0, 1e\+06\)$"),
    ],
)
def test_bursts_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Burst(**options)


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
