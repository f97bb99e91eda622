"""Searches over loop-nest mappings: the space counted by hand, scores by the cost model, searches against the optimum."""

import jax
import numpy as np
import pytest

import costmodel
from costmodel.studies.mapping_search.spaces import make_space
from costmodel.studies.mapping_search.tables import factor_choices, order_choices

TINY = costmodel.LoopAccelerator(accumulator=256.0, scratchpad=128.0, memory_words=2.0, side=4.0)
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
    space = make_space(TINY, [LAYER])
    genes = space.draw(jax.random.key(0), 8)
    values = np.asarray(space.scores(genes).value)
    for one, value in zip(genes, values, strict=True):
        mapping = costmodel.LoopMapping(*(table[0] for table in space.mappings(one)))
        cost = TINY.cost(mapping)
        assert float(cost.accesses.macs) == 8 * 8 * 4
        want = np.log(float(cost.energy)) + np.log(float(cost.latency)) if float(cost.excess) <= 1 + 1e-5 else np.inf
        assert value == pytest.approx(want, rel=1e-5)


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


@pytest.mark.slow
def test_gradient_search_reaches_the_optimum_and_fits_the_hardware() -> None:
    best = costmodel.search_mappings(TINY, LAYER, method="exhaustive", orders="stationary")
    found = costmodel.search_mappings(TINY, LAYER, method="gradient", orders="stationary", evaluations=20_000)
    assert 1 - 1e-5 <= found.value / best.value < 1.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: costmodel.loop_layer({"Z": 3}), "unknown dimension 'Z'"),
        (lambda: costmodel.loop_layer({"P": 0}), "P = 0 is not a whole number"),
        (lambda: costmodel.search_mappings(TINY, LAYER, method="annealing"), "unknown method 'annealing'"),
        (lambda: costmodel.search_mappings(TINY, LAYER, evaluations=0), "evaluations = 0 must be above 0"),
        (lambda: costmodel.search_hardware(TINY, {"sides": [4]}, [LAYER]), "unknown parameter 'sides'"),
        (lambda: costmodel.search_hardware(TINY, {}, []), "layers is empty"),
    ],
    ids=["dimension", "size", "method", "budget", "label", "layers"],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
