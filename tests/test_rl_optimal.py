"""The optimum: mixtures, value iteration against independent solvers, grids against costmodel.step, the policy it yields."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import costmodel
import rl
from costmodel.hardware import edge_gpu, stm32l4r5
from physics import SharedPackage
from rl.references.bounds import score_bounds
from rl.references.grids import Context, GridNodes, RoutingGrid
from rl.references.interpolation import mix, position
from rl.references.optimal import (
    deadline_nodes,
    extrapolate,
    gap_nodes,
    kept_horizons,
    predicted_scores,
    solve_routing,
    starts,
    worth_keeping,
)
from rl.references.tabular import GridRoutingEnv
from rl.references.value_iteration import DecisionProcess, induce_backward, iterate_values, sweep
from workloads import TaskStream

pytestmark = pytest.mark.single  # what it computes with is tested in both precisions where it lives

TRACKED = ("ds-cnn", "mobilenet-v1-0.25", "resnet8")
SMALL = GridNodes(ambient=(350.0,), mean_gap=(0.3,), backlog=(0.0, 0.2), life=4, deadlines=3, gaps=2)


@pytest.fixture(scope="module")
def env():
    return rl.SchedulingEnv(costmodel.load_platform("edge"))


@pytest.fixture(scope="module")
def params(env):
    return env.default_params._replace(max_steps=24, ambient_lo=350.0, ambient_hi=350.0)


@pytest.fixture(scope="module")
def tabular(env, params):
    return GridRoutingEnv(RoutingGrid(env, SMALL, TRACKED), Context(jnp.asarray(350.0), jnp.asarray(0.3)), params)


@pytest.fixture(scope="module")
def optimum(env, params):
    return solve_routing(env, params, SMALL, tracked=TRACKED)


def random_process(seed, nodes, tasks, actions, deadlines, successors):
    """A process with random rewards and transitions."""
    rng = np.random.default_rng(seed)
    weight = rng.random((successors, tasks, actions, nodes))
    return DecisionProcess(
        jnp.asarray(rng.normal(size=(deadlines, tasks, actions, nodes)), float),
        jnp.asarray(rng.integers(0, nodes, weight.shape), jnp.int32),
        jnp.asarray(weight / weight.sum(axis=0), float),
        jnp.asarray(np.full(tasks, 1 / tasks), float),
    )


def matrices(process):
    """Transition matrices (W, A, S, S) of a process."""
    successors, tasks, actions, nodes = process.weight.shape
    dense = np.zeros((tasks, actions, nodes, nodes))
    for k, n, a, s in itertools.product(range(successors), range(tasks), range(actions), range(nodes)):
        dense[n, a, s, int(process.successor[k, n, a, s])] += float(process.weight[k, n, a, s])
    return dense


def test_position_by_hand():
    nodes = jnp.array([0.0, 1.0, 3.0])
    assert np.allclose(position(jnp.array([-1.0, 0.5, 1.0, 2.0, 9.0]), nodes), [0, 0.5, 1, 1.5, 2])
    assert float(position(jnp.asarray(5.0), jnp.array([1.0]))) == 0


def test_mixture_by_hand():
    """(0.2, 1.7) on a 2 x 3 lattice numbered i + 2 j: from (0, 1) raise j (0.7), then i (0.2)."""
    found = mix(jnp.array([0.2, 1.7]), jnp.array([2, 3]), jnp.array([1, 2]), jnp.array(10))
    assert np.array_equal(found.node, [12, 14, 15])
    assert np.allclose(found.weight, [0.3, 0.5, 0.2], atol=1e-6)


def test_mixtures_are_convex_and_exact_for_linear_functions(getkey):
    sizes, strides = jnp.array([3, 4, 2, 5]), jnp.array([1, 3, 12, 24])
    top = jnp.array([2.0, 3.0, 1.0, 4.0])
    points = jax.random.uniform(getkey(), (4000, 4)) * top
    points = jnp.concatenate([points, jnp.round(points), jnp.zeros((1, 4)), top[None]])
    slopes = jax.random.normal(getkey(), (4,))
    found = jax.vmap(lambda x: mix(x, sizes, strides, jnp.array(0)))(points)
    digits = jnp.stack([(found.node // s) % n for s, n in zip(strides, sizes, strict=True)], axis=-1)
    assert np.all(found.weight >= 0) and np.allclose(found.weight.sum(axis=1), 1, atol=1e-6)
    used = np.asarray(found.weight) > 0
    assert np.all((np.asarray(found.node) >= 0) & (np.asarray(found.node) < 120) | ~used)
    assert np.allclose(jnp.sum(found.weight * (digits @ slopes), axis=1), points @ slopes, atol=2e-5)


@pytest.mark.parametrize("gamma", [0.5, 0.95])
def test_value_iteration_against_a_linear_program(gamma):
    """min sum V with V >= every action's value has V* as its solution (Puterman 6.9); solved by HiGHS."""
    process = random_process(1, nodes=7, tasks=2, actions=3, deadlines=2, successors=3)
    dense, reward = matrices(process), np.asarray(process.reward, float)
    deadlines, tasks, actions, nodes = reward.shape
    unknowns = deadlines * tasks * nodes  # u(d, n, s), with V(s') = mean over d and n of u(d, n, s')
    rows, bounds = [], []
    for d, n, a, s in np.ndindex(reward.shape):
        row = np.zeros((deadlines, tasks, nodes))
        row[:] += gamma * dense[n, a, s][None, None] / (deadlines * tasks)
        row[d, n, s] -= 1
        rows.append(row.ravel())
        bounds.append(-reward[d, n, a, s])
    solved = linprog(np.ones(unknowns), A_ub=np.array(rows), b_ub=np.array(bounds), bounds=(None, None))
    expected = solved.x.reshape(deadlines * tasks, nodes).mean(axis=0)
    found = iterate_values(process, gamma, 1e-5)
    assert np.allclose(found.value, expected, atol=5e-5)
    assert actions == 3


def test_value_iteration_against_every_policy():
    """3 nodes, 2 tasks, 2 actions: 2^6 policies, each evaluated by a linear solve; none is better at any node."""
    process, gamma = random_process(2, nodes=3, tasks=2, actions=2, deadlines=1, successors=2), 0.9
    dense, reward = matrices(process), np.asarray(process.reward, float)[0]
    values = []
    for choice in itertools.product(range(2), repeat=6):
        chosen = np.array(choice).reshape(2, 3)
        step = np.mean([[dense[n, chosen[n, s], s] for s in range(3)] for n in range(2)], axis=0)
        gain = np.mean([[reward[n, chosen[n, s], s] for s in range(3)] for n in range(2)], axis=0)
        values.append(np.linalg.solve(np.eye(3) - gamma * step, gain))
    assert np.allclose(iterate_values(process, gamma, 1e-5).value, np.max(values, axis=0), atol=2e-5)


def test_certificate_holds_and_the_operator_contracts(getkey):
    process, gamma = random_process(3, nodes=50, tasks=3, actions=3, deadlines=4, successors=5), 0.9
    rough, exact = iterate_values(process, gamma, 0.5), iterate_values(process, gamma, 1e-5)
    distance = float(jnp.max(jnp.abs(rough.value - exact.value)))
    assert int(rough.sweeps) < int(exact.sweeps)
    assert 0 < distance <= float(rough.error) <= 0.5
    assert float(rough.error) == pytest.approx(0.9 / 0.1 * float(rough.residual), rel=1e-5)
    pairs = 10 * jax.random.normal(getkey(), (200, 2, 50))
    images = jax.vmap(jax.vmap(lambda v: sweep(process, v, gamma)))(pairs)
    before, after = (np.max(np.abs(np.asarray(x[:, 0] - x[:, 1])), axis=1) for x in (pairs, images))
    assert np.all(after <= gamma * before * (1 + 1e-5))


def test_sweeps_stop_where_asked():
    process = random_process(4, nodes=5, tasks=1, actions=2, deadlines=1, successors=2)
    assert int(iterate_values(process, 0.99, 1e-9, most_sweeps=7).sweeps) == 7


def test_backward_induction_is_repeated_sweeping():
    process = random_process(5, nodes=6, tasks=2, actions=2, deadlines=2, successors=2)
    rows, value = induce_backward(process, (0, 1, 3)), jnp.zeros(6)
    assert np.array_equal(rows[0], np.zeros(6))
    for horizon in range(1, 4):
        value = sweep(process, value, 1.0)
        if horizon in (1, 3):
            assert np.allclose(rows[{1: 1, 3: 2}[horizon]], value, rtol=1e-5, atol=1e-5)


def test_quadrature_by_hand():
    """Two strata of the exponential, split at ln 2: means 1 - ln 2 and 1 + ln 2. One: the mean."""
    assert np.allclose(gap_nodes(2), [1 - np.log(2), 1 + np.log(2)], atol=1e-6)
    assert np.allclose(gap_nodes(1), [1])
    assert float(jnp.mean(gap_nodes(7))) == pytest.approx(1, rel=1e-6)
    stream = TaskStream(["resnet8"], deadline_lo=0.01, deadline_hi=1.0)
    assert np.allclose(deadline_nodes(stream, 2), [[0.01 * 100**0.25, 0.01 * 100**0.75]], rtol=1e-5)


def test_every_node_is_found_where_it_lies(tabular):
    grid, context = tabular.grid, tabular.context
    lives = grid.life_nodes(context.ambient)
    found = jax.jit(jax.vmap(lambda s: grid.locate(s.platform, lives)))(grid.states(context))
    heaviest = jnp.argmax(found.weight, axis=1)[:, None]
    assert np.array_equal(jnp.take_along_axis(found.node, heaviest, axis=1)[:, 0], np.arange(grid.size))
    assert np.allclose(jnp.max(found.weight, axis=1), 1, atol=2e-3)


def test_orders_that_fit(tabular):
    """Shares 0.149, 0.750, 0.332, 0.144: no three with mobilenet (1), which shares with ds-cnn (0) or resnet8 (3) only."""
    orders = set(tabular.grid.orders)
    assert {frozenset(o) for o in orders if 1 in o} == {frozenset(x) for x in [(1,), (0, 1), (1, 3)]}
    assert len(orders) == 1 + 4 + 2 * 5 + 6


def test_rewards_and_successors_are_those_of_the_step(env, params, tabular):
    """At 300 random nodes: the reward of costmodel.step itself, and successors whose mean backlog is that of the step."""
    grid, process, rng = tabular.grid, tabular.process, np.random.default_rng(0)
    node, network = rng.integers(0, grid.size, 300), rng.integers(0, 4, 300)
    action, stratum = rng.integers(0, 3, 300), rng.integers(0, SMALL.deadlines, 300)
    deadlines, gaps = deadline_nodes(env.stream, SMALL.deadlines), 0.3 * gap_nodes(SMALL.gaps)

    @jax.jit
    @jax.vmap
    def by_step(node, network, action, stratum):
        state = grid.state(tabular.context, node)._replace(network=network, deadline=deadlines[network, stratum])

        def at(gap):
            after, outcome = env.outcome(state._replace(gap=gap), action)
            return env.reward(state, outcome, params), jnp.clip(after.backlog, 0, 0.2), jnp.sum(after.cells["pim"].resident)

        return jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(at)(gaps))

    reward, backlog, resident = by_step(*map(jnp.asarray, (node, network, action, stratum)))
    assert np.allclose(process.reward[stratum, network, action, node], reward, rtol=1e-4, atol=1e-5)
    index, weight = process.successor[:, network, action, node], process.weight[:, network, action, node]
    plants = grid.states(tabular.context).platform
    queued = np.array(grid.queued)
    assert np.allclose(jnp.sum(weight[..., None] * plants.backlog[index], axis=0)[:, queued], backlog[:, queued], atol=1e-5)
    assert np.allclose(jnp.sum(weight * jnp.sum(plants.cells["pim"].resident, axis=-1)[index], axis=0), resident, atol=1e-4)


def test_weights_of_all_successors_sum_to_one(tabular):
    assert np.allclose(jnp.sum(tabular.process.weight, axis=0), 1, atol=1e-5)
    assert np.all(np.asarray(tabular.process.weight) >= 0)
    used = np.asarray(tabular.process.weight) > 0
    index = np.asarray(tabular.process.successor)
    assert np.all((index >= 0) & (index < tabular.grid.size) | ~used)


def test_networks_worth_keeping(env):
    """The autoencoder runs in 5 ms on the cpu at next to no cost: its weights (a third of the chip) never earn their writing."""
    assert worth_keeping(env) == TRACKED


def test_two_processors_with_a_known_optimum():
    """Gaps of 3 s after which everything is done and asleep: tasks do not touch each other, the best is the best each time."""
    package = SharedPackage(names=("cpu", "gpu"), r_junction=jnp.array([20.0, 3.0]), c_junction=jnp.array([1.0, 1.0]))
    platform = costmodel.Platform(processors={"cpu": stm32l4r5(), "gpu": edge_gpu()}, package=package)
    stream = TaskStream(["resnet8"], deadline_lo=1.0, deadline_hi=1.0, gap_lo=3.0, gap_hi=3.0)
    env = rl.SchedulingEnv(platform, stream)
    params = env.default_params._replace(max_steps=10, ambient_lo=320.0, ambient_hi=320.0, warmth=0.0)
    nodes = GridNodes(ambient=(320.0,), mean_gap=(3.0,), backlog=(0.0, 0.2), gaps=1, deadlines=1)
    optimum, state = solve_routing(env, params, nodes), starts(env, jax.random.key(0), 1, params)
    state = jax.tree.map(lambda x: x[0], state)._replace(gap=jnp.asarray(3.0))
    rewards = jax.jit(jax.vmap(lambda a: env.reward(state, env.outcome(state, a)[1], params)))(jnp.arange(2))
    # cpu: 10 x 6.6 mJ + 0.1 x 0.165 s / 1 s = 0.083; gpu: 10 x (11 mJ + 0.1 s x about 0.35 W) = 0.45
    assert rewards[0] > rewards[1]
    assert float(jax.jit(optimum.value)(state)) == pytest.approx(10 * float(rewards[0]), rel=1e-4)
    decide = jax.jit(lambda s: optimum.policy()(jax.random.key(0), jnp.zeros(1), s))
    assert int(decide(state)) == 0
    # a deadline that the cpu (0.165 s) misses: 1 + 0.1 x 2 are more than the gpu costs
    assert int(decide(state._replace(deadline=jnp.asarray(0.08)))) == 1
    # for ever, discounted: r (1 + gamma + gamma^2 + ...) = r / (1 - gamma), within the certificate
    endless = solve_routing(env, params, nodes, gamma=0.9, tolerance=0.01)
    assert endless.values.shape == (1, 1, 1, endless.grid.size) and 0 < float(endless.error[0, 0]) <= 0.01
    assert abs(float(jax.jit(endless.value)(state)) - float(rewards[0]) / 0.1) <= float(endless.error[0, 0]) + 1e-4


def test_the_policy_beats_looking_at_one_task(env, params, optimum):
    """In the continuous environment, on the same episodes; the grid is coarse and still worth more than cost-greedy."""
    optimal = rl.evaluate(env, optimum.policy(), jax.random.key(1), 48, params)
    greedy = rl.evaluate(env, rl.baselines(env, params)["cost-greedy"], jax.random.key(1), 48, params)
    assert float(jnp.mean(optimal.score)) > float(jnp.mean(greedy.score))


def test_predicted_scores_and_extrapolation(env, params, optimum):
    states = starts(env, jax.random.key(1), 16, params)
    predicted = predicted_scores(optimum, states)
    assert predicted.shape == (16,) and np.all(predicted < 0)
    found = extrapolate(optimum, optimum, states)
    assert found.error == 0 and found.estimate == found.fine == pytest.approx(float(jnp.mean(predicted)))
    with pytest.raises(ValueError, match="ratio = 1 must be above 1"):
        extrapolate(optimum, optimum, states, ratio=1.0)


def test_tabular_environment_reaches_its_optimum(tabular):
    """256 episodes of 6 tasks played greedily on the optimal values score what backward induction says, within 4 errors."""
    params, horizon = tabular.default_params._replace(max_steps=6), 6
    values = induce_backward(tabular.process, tuple(range(horizon + 1)))

    @jax.jit
    @jax.vmap
    def play(key):
        def body(carry, step):
            observation, state = carry
            action = tabular.greedy(values[horizon - 1 - step])(key, observation, state)
            observation, state, reward, terminated, truncated, info = tabular.step(
                jax.random.fold_in(key, step), state, action, params
            )
            return (observation, state), (reward, terminated, truncated, state.time, info["final_observation"])

        first = tabular.reset(key)
        rows = jax.lax.scan(body, first, jnp.arange(horizon))[1]
        return values[horizon, first[1].node], jnp.sum(rows[0]), *(row[-1] for row in rows[1:])

    expected, total, terminated, truncated, time, final = play(jax.random.split(jax.random.key(2), 256))
    difference = np.asarray(total - expected)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(256)
    assert not np.any(terminated) and np.all(truncated) and np.all(time == 0)
    assert final.shape == (256, len(tabular.grid.env.observation_names)) and np.all(np.isfinite(final))


@pytest.mark.slow
def test_no_policy_exceeds_the_bound(env, optimum):
    """Episode by episode, over the whole range of ambients and gaps."""
    params = env.default_params._replace(max_steps=32)
    bounds = score_bounds(env, jax.random.key(4), 64, params)
    assert np.all(np.isfinite(bounds)) and np.all(bounds < 0)
    played = rl.evaluate(env, optimum.policy(), jax.random.key(4), 64, params)
    assert np.all(np.asarray(played.score) <= np.asarray(bounds) + 1e-4)


def test_the_bound_by_hand(env):
    """One task, idle platform, chip beyond price: exactly the better of cpu and gpu, awake for its run and its linger."""
    params = env.default_params._replace(max_steps=1, warmth=0.0, staleness=0.0, wear_weight=1e9, failure_penalty=1e9)
    bounds = score_bounds(env, jax.random.key(6), 32, params)
    played = rl.evaluate(env, rl.baselines(env, params)["cost-greedy"], jax.random.key(6), 32, params)
    assert np.allclose(bounds, played.score, rtol=1e-3, atol=1e-4)


def test_coarser_nodes_keep_the_ends():
    coarse = GridNodes().coarser()
    assert coarse.ambient == GridNodes().ambient[::2] and coarse.mean_gap == GridNodes().mean_gap[::2]
    assert (coarse.backlog, coarse.rise, coarse.gaps, coarse.deadlines, coarse.life) == ((0.0, 0.25), (0.0,), 2, 5, 4)


def test_kept_horizons():
    assert kept_horizons(256)[:5] == (0, 1, 4, 9, 16) and kept_horizons(256)[-1] == 256
    assert kept_horizons(1) == (0, 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda env: GridNodes(ambient=(320.0, 310.0)), "GridNodes.ambient = "),
        (lambda env: GridNodes(mean_gap=(0.0, 1.0)), "GridNodes.mean_gap = "),
        (lambda env: GridNodes(life=2), "GridNodes.life = 2 is below 4"),
        (lambda env: RoutingGrid(env, tracked=("vgg",)), "tracked network 'vgg' is unknown"),
        (lambda env: solve_routing(env, gamma=1.5), "gamma = 1.5 is outside its range"),
        (lambda env: solve_routing(env, gamma=0.9, tolerance=0.0), "tolerance = 0 is outside its range"),
        (lambda env: score_bounds(env, jax.random.key(0), 0), "episodes = 0 is below 1"),
    ],
    ids=["falling", "no gap", "life", "tracked", "gamma", "tolerance", "episodes"],
)
def test_bad_input_is_refused_in_one_line(env, make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(env)
    assert "\n" not in str(caught.value)
