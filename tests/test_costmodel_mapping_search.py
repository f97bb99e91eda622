"""Searches over loop-nest mappings: the space counted by hand, scores by the cost model, searches against the optimum."""

import jax
import numpy as np
import pytest

import costmodel
from costmodel.studies.mapping_search.evolution import Evolution
from costmodel.studies.mapping_search.random_draws import RandomDraws
from costmodel.studies.mapping_search.spaces import make_space
from costmodel.studies.mapping_search.tables import factor_choices, order_choices

TINY = costmodel.LoopAccelerator(accumulator=256.0, scratchpad=128.0, memory_words=2.0, side=4.0)
TIGHT = costmodel.LoopAccelerator(accumulator=64.0, scratchpad=64.0, memory_words=2.0, side=4.0)
LAYER = costmodel.loop_layer({"P": 8, "C": 8, "K": 4})


def test_choices_are_counted_by_hand() -> None:
    """8 = 2^3 over 4 places: C(6, 3) = 20; over 3: C(5, 2) = 10; 6 of the 20 less where C's spatial factor of 8 exceeds 4: 1."""
    assert len(factor_choices("P", 8, 4).rows) == 20
    assert len(factor_choices("R", 8, 4).rows) == 10
    assert len(factor_choices("C", 8, 4).rows) == 19
    assert len(order_choices((2, 4, 5), "all").rows) == 6 and len(order_choices((2, 4, 5), "stationary").rows) == 3
    for table in (factor_choices("C", 24, 4), factor_choices("P", 24, 4)):
        assert (table.rows.prod(axis=1) == 24).all()
        for row, moves in enumerate(table.moves):  # a neighbour differs in two places
            assert ((table.rows[moves] != table.rows[row]).sum(axis=1) <= 2).all()


def test_a_score_is_the_cost_model_s() -> None:
    space = make_space(TIGHT, [LAYER])
    genes = space.draw(jax.random.key(0), 500)
    mappings = jax.tree.map(lambda table: table[:, 0], jax.vmap(space.mappings)(genes))
    cost = jax.jit(jax.vmap(TIGHT.cost))(mappings)
    assert (np.asarray(cost.accesses.macs) == 8 * 8 * 4).all()
    fits = np.asarray(cost.excess) <= 1 + 1e-5
    want = np.where(fits, np.log(np.asarray(cost.energy)) + np.log(np.asarray(cost.latency)), np.inf)
    score = space.scores(genes)
    assert 0 < fits.sum() < 500
    np.testing.assert_allclose(score.value, want, rtol=1e-5)
    assert (
        np.isfinite(score.rank).all()
        and (np.asarray(score.rank)[~fits] > np.log(np.asarray(cost.energy * cost.latency))[~fits]).all()
    )


def test_the_optimum_is_reached_and_never_beaten() -> None:
    """20 x 19 x 10 factorisations x 27 orders = 102,600 (4 = 2^2 over 4 places: C(5, 3) = 10)."""
    best = costmodel.search_mappings(TINY, LAYER, method="exhaustive", orders="stationary")
    assert best.choices == 20 * 19 * 10 * 27 and best.evaluations == best.choices
    for method in ("evolution", "random"):
        one, again = (
            costmodel.search_mappings(TINY, LAYER, method=method, orders="stationary", evaluations=20_000) for _ in range(2)
        )
        assert one.value == again.value and one.evaluations == 20_000
        assert 1 - 1e-5 <= one.value / best.value < (1.001 if method == "evolution" else 1.2)


def test_hardware_is_the_least_that_holds_the_mappings() -> None:
    allowed = [64.0, 128.0, 256.0, 512.0, 1024.0]
    layers = [LAYER, costmodel.loop_layer({"P": 4, "C": 8, "K": 8}, repeats=3)]
    found = costmodel.search_hardware(
        TINY, {"accumulator": allowed, "scratchpad": allowed}, layers, method="evolution", evaluations=5_000
    )
    assert found.value == pytest.approx(
        sum(n * float(c.energy) for n, c in zip((1, 3), found.costs, strict=True))
        * sum(n * float(c.latency) for n, c in zip((1, 3), found.costs, strict=True)),
        rel=1e-5,
    )
    for label in ("accumulator", "scratchpad"):
        need = max(float(getattr(cost.needs, label)) for cost in found.costs)
        assert float(getattr(found.accelerator, label)) == min(size for size in allowed if size >= need * (1 - 1e-5))
    again = [found.accelerator.cost(mapping) for mapping in found.mappings]
    np.testing.assert_allclose([c.energy for c in again], [c.energy for c in found.costs], rtol=1e-5)
    assert "3 x P4 C8 K8" in str(found)


def test_comparison_at_equal_evaluations_and_equal_time() -> None:
    methods = {"evolution": Evolution(rounds=2), "random": RandomDraws(rounds=1)}
    some = dict(methods=methods, seeds=2, orders="stationary")
    data = costmodel.compare_searches(TINY, [LAYER], evaluations=[40, 500, 5_000], **some)
    assert data["best"].dims == ("algorithm", "seed", "evaluations") and data["best_in_time"].shape == (2, 2, 0)
    best = data["best"].to_numpy()
    assert data.attrs["optimum_is"] == "exhaustive" and data.attrs["choices"] == 20 * 19 * 10 * 27
    assert (np.diff(best, axis=-1) <= 0).all() and (best >= float(data["optimum"]) * (1 - 1e-5)).all()
    assert costmodel.regret_table(data).count("\n") == 2 and len(costmodel.plot_searches(data).axes) == 1
    timed = costmodel.compare_searches(TINY, [LAYER], evaluations=[40], seconds=[1e-6, 0.05], enumerable=1, **some)
    assert timed.attrs["optimum_is"] == "best found" and float(timed["optimum"]) == float(timed["best_in_time"].min())
    assert np.isinf(timed["best_in_time"].to_numpy()[:, :, 0]).all()  # nothing is found in a microsecond
    assert len(costmodel.plot_searches(timed).axes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient", "bayesian"])
def test_other_methods_come_near_the_optimum(method: str) -> None:
    best = costmodel.search_mappings(TINY, LAYER, method="exhaustive", orders="stationary")
    found = costmodel.search_mappings(TINY, LAYER, method=method, orders="stationary", evaluations=20_000)
    assert 1 - 1e-5 <= found.value / best.value < 1.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: costmodel.loop_layer({"Z": 3}), "unknown dimension 'Z'"),
        (lambda: costmodel.loop_layer({"P": 0}), "P = 0 is not a whole number"),
        (lambda: costmodel.search_mappings(TINY, LAYER, method="annealing"), "unknown method 'annealing'"),
        (lambda: costmodel.search_mappings(TINY, LAYER, evaluations=0), "evaluations = 0 must be above 0"),
        (lambda: costmodel.search_hardware(TINY, {"sides": [4]}, [LAYER]), "unknown parameter 'sides'"),
        (lambda: costmodel.search_hardware(TINY, {}, []), "layers is empty"),
        (lambda: costmodel.compare_searches(TINY, [LAYER], seeds=0), "seeds = 0"),
        (lambda: costmodel.compare_searches(TINY, [LAYER], evaluations=[-1]), "evaluations must be finite and above 0"),
    ],
    ids=["dimension", "size", "method", "budget", "label", "layers", "seeds", "axis"],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
