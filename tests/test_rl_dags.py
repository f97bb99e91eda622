"""Scheduling of task graphs: the simulator against plain Python, the environment, the learned scheduler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from physics import SharedPackage
from rl.agents.graph_policy import NEVER, GraphScheduler, PairScorer
from rl.agents.graph_training import (
    GraphTrainConfig,
    load_graph_scheduler,
    make_graph_train,
    save_graph_scheduler,
    training_problems,
)
from rl.checkpoints import CheckpointError
from rl.envs.dag_problems import outlook, pad_problem, scheduling_problem, stack_problems
from rl.envs.dag_simulator import Heat, decide, estimate_makespan, is_done, make_offers, makespan, start_placement
from rl.envs.dags import GraphParams, GraphSchedulingEnv, draw_durations, look
from rl.references import list_scheduling
from workloads import cholesky, durations, lu, machine, qr, ready_times

pytestmark = pytest.mark.single  # computes in float32 whatever the default

SIZE = 20  # tasks of every padded problem here: one compilation
TILE = workloads.graphs.TILE_BYTES


def cases():
    """(graph, machine, durations): with and without communication, with a GPU that cannot run three kinds, and a chain."""
    found = []
    for gpus, hop in ((2, 0.0), (1, 0.0), (2, 7.0)):
        where = machine(cpus=4 - gpus, gpus=gpus, bandwidth=TILE / hop if hop else np.inf, latency=hop / 10)
        found += [(graph, where, durations(graph, ready_times(), where)) for graph in (cholesky(3), cholesky(4), lu(3), qr(3))]
    graph, where, times = found[1]
    chain = workloads.TaskGraph([0, 0], [[False, True], [False, False]], [[0.0, 10.0], [0.0, 0.0]], kinds=("task",))
    only_two = jnp.array([[3.0, 5.0, jnp.inf, jnp.inf], [4.0, 1.0, jnp.inf, jnp.inf]])
    found.append((graph, where, times.at[graph.kind > 0, 0].set(jnp.inf)))
    return [*found, (chain, workloads.Machine([0, 1, 0, 1], 5.0, 1.0), only_two)]


CASES = cases()
PROBLEMS = stack_problems([scheduling_problem(graph, times, where, n_tasks=SIZE) for graph, where, times in CASES])
OUTLOOKS = jax.jit(jax.vmap(outlook))(PROBLEMS)
see = jax.jit(look, static_argnames=("window", "live"))
decide_once = jax.jit(decide, static_argnames="live")


def case(number):
    return jax.tree.map(lambda x: x[number], (PROBLEMS, OUTLOOKS))


def random_play(problem, true, key, live):
    """Random legal pairs to the end: (placement, tasks, processors, estimates)."""
    ahead = outlook(problem)

    def body(placement, key):
        offers = make_offers(problem, placement, live=live)
        estimate = estimate_makespan(problem, ahead, placement, offers, live=live)
        pair = jnp.argmax(jnp.where(offers.legal, jax.random.uniform(key, offers.legal.shape), -1.0))
        task, processor = pair // 4, pair % 4
        return decide(problem, placement, task, processor, true, live=live), (task, processor, estimate)

    keys = jax.random.split(key, (2 if live else 1) * SIZE)
    placement, rows = jax.lax.scan(body, start_placement(problem), keys)
    return placement, *rows


random_plays = jax.jit(jax.vmap(jax.vmap(random_play, in_axes=(None, None, 0, None)), in_axes=(0, 0, 0, None)), static_argnums=3)


def python_plan(problem, pairs):
    """The rules of planning in plain Python: start and finish of each task."""
    d, edges, data, mask, per_byte, latency = (np.asarray(x) for x in problem)
    start, finish, where, free = {}, {}, {}, [0.0] * d.shape[1]
    for task, processor in pairs:
        if len(finish) == mask.sum():
            break
        parents = np.flatnonzero(edges[:, task])
        assert all(parent in finish for parent in parents)
        there = [finish[j] + latency[where[j], processor] + data[j, task] * per_byte[where[j], processor] for j in parents]
        start[task] = max([free[processor], *there])
        finish[task] = free[processor] = start[task] + d[task, processor]
        where[task] = processor
    return start, finish


def python_live(problem, true, pairs):
    """The rules of live decisions in plain Python."""
    _, edges, data, mask, per_byte, latency = (np.asarray(x) for x in problem)
    start, finish, where, free, clock = {}, {}, {}, [0.0] * true.shape[1], 0.0
    for task, processor in pairs:
        if len(finish) == mask.sum():
            break
        parents = np.flatnonzero(edges[:, task])
        ready = mask[task] and task not in finish and all(finish.get(j, np.inf) <= clock for j in parents)
        if ready and free[processor] <= clock:
            there = [finish[j] + latency[where[j], processor] + data[j, task] * per_byte[where[j], processor] for j in parents]
            start[task] = max([clock, *there])
            finish[task] = free[processor] = start[task] + true[task, processor]
            where[task] = processor
        else:
            clock = min(time for time in free if time > clock)
    return start, finish


@pytest.mark.parametrize("live", [False, True], ids=["planning", "live"])
def test_simulator_equals_plain_python(getkey, live):
    # 14 problems x 8 plays x 20 or 40 decisions = 2240 or 4480 steps
    true = PROBLEMS.durations
    if live:
        true = jax.vmap(lambda k, d: draw_durations(k, d, GraphParams(spread=0.3)))(jax.random.split(getkey(), len(CASES)), true)
    keys = jax.random.split(getkey(), (len(CASES), 8))
    placements, tasks, processors, _ = random_plays(PROBLEMS, true, keys, live)
    for i in range(len(CASES)):
        problem = case(i)[0]
        for j in range(8):
            pairs = list(zip(np.asarray(tasks[i, j]), np.asarray(processors[i, j]), strict=True))
            start, finish = python_live(problem, np.asarray(true[i]), pairs) if live else python_plan(problem, pairs)
            assert len(finish) == int(problem.mask.sum())
            order = list(finish)
            np.testing.assert_allclose(placements.start[i, j][np.array(order)], list(start.values()), rtol=2e-6)
            np.testing.assert_allclose(placements.finish[i, j][np.array(order)], list(finish.values()), rtol=2e-6)


@pytest.mark.parametrize("live", [False, True], ids=["planning", "live"])
def test_estimate_is_a_bound_that_never_falls_and_ends_as_the_makespan(getkey, live):
    keys = jax.random.split(getkey(), (len(CASES), 8))
    placements, _, _, estimates = random_plays(PROBLEMS, PROBLEMS.durations, keys, live)
    lengths = jax.vmap(jax.vmap(makespan))(placements)
    assert bool(jnp.all(jnp.diff(estimates, axis=-1) >= -1e-5 * lengths[..., None]))
    assert bool(jnp.all(estimates <= lengths[..., None] * (1 + 1e-6)))
    known = estimates[..., -1] if live else jnp.max(estimates, axis=-1)
    assert bool(jnp.all(known <= lengths * (1 + 1e-6)))


def test_a_chain_by_hand():
    # Two tasks in a row, 3 s and 5 s on processor 0, 4 s and 1 s on processor 1; 10 bytes at 5 bytes/s with 1 s of latency: 3 s.
    problem, ahead = case(-1)
    # ranks: 2.5 and 4 + 3 + 2.5; optimistic cost of task 0: min(4, 1 + 3) on 0, min(4 + 3, 1) on 1, 1 + 3 elsewhere
    np.testing.assert_allclose(ahead.rank[:2], [9.5, 2.5])
    np.testing.assert_allclose(ahead.optimistic[:2], [[4.0, 1.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(ahead.below[:2], [1.0, 0.0])
    np.testing.assert_allclose(ahead.bound, 4.0)
    placement = start_placement(problem)
    for task, processor, finish in ((0, 0, 3.0), (1, 1, 7.0)):  # 3 + 3 + 1
        placement = decide_once(problem, placement, jnp.asarray(task), jnp.asarray(processor))
        assert float(placement.finish[task]) == finish


def test_outlook_equals_the_references():
    for number, (graph, where, times) in enumerate(CASES):
        reference, ahead = list_scheduling.Problem(graph, times, where), case(number)[1]
        mean = np.where(np.isfinite(reference.w), reference.w, 0).sum(1) / np.isfinite(reference.w).sum(1)
        np.testing.assert_allclose(ahead.rank[: graph.n_tasks], list_scheduling.upward_ranks(reference, mean), rtol=1e-5)
        np.testing.assert_allclose(ahead.optimistic[: graph.n_tasks], list_scheduling.optimistic_costs(reference), rtol=1e-5)


@pytest.mark.parametrize("name", ["heft", "peft", "mct", "rank-list"])
def test_schedules_of_the_references_are_reproduced_in_the_order_of_their_starts(name):
    for number, (graph, where, times) in enumerate(CASES):
        schedule = list_scheduling.LIST_SCHEDULERS[name](graph, times, where)
        order = np.lexsort((np.arange(graph.n_tasks), schedule.finish, schedule.start))
        rest = (0, SIZE - graph.n_tasks)
        placement = replay(case(number)[0], np.pad(order, rest, mode="edge"), np.pad(schedule.processor, rest))
        assert bool(is_done(case(number)[0], placement))
        np.testing.assert_allclose(makespan(placement), schedule.makespan, rtol=1e-6)


@jax.jit
def replay(problem, order, processors):
    def body(placement, task):
        return decide(problem, placement, task, processors[task]), None

    return jax.lax.scan(body, start_placement(problem), order)[0]


def test_padding_changes_nothing():
    @jax.jit
    def seen_after_four(problem):
        placement = start_placement(problem)
        tasks, processors = jnp.array([0, 1, 3, 2]), jnp.array([0, 1, 2, 0])
        placement, _ = jax.lax.scan(lambda p, pair: (decide(problem, p, *pair), None), placement, (tasks, processors))
        return look(problem, outlook(problem), placement, 6)

    problem = case(5)[0]
    short, long = seen_after_four(problem), seen_after_four(pad_problem(problem, SIZE + 7))
    rows = np.asarray(short[0].legal).any(axis=1)
    assert rows.any()
    for name in ("tasks", "pairs", "priority", "legal"):
        np.testing.assert_allclose(getattr(short[0], name)[rows], getattr(long[0], name)[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(short[0].context, long[0].context, rtol=1e-5)
    np.testing.assert_allclose(short[1], long[1], rtol=1e-6)


def perturbed(params):
    """Weights away from PEFT's priorities."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return tree.unflatten([x + 0.3 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)])


def uniform_episode(env, key, params):
    """One episode of actions drawn from all, legal or not: the first state and what each step gave."""
    _, state = env.reset(key, params)

    def body(state, key):
        action = jax.random.randint(key, (), 0, env.num_actions)
        _, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        return state, (reward, terminated, truncated, info["makespan"], info["legal"])

    return state, jax.lax.scan(body, state, jax.random.split(key, env.max_steps))[1]


@pytest.mark.parametrize("live", [False, True], ids=["planning", "live"])
def test_rewards_add_up_to_the_loss_against_the_bound(getkey, live):
    env = GraphSchedulingEnv(PROBLEMS, live=live)
    noise = GraphParams(sigma=jnp.array([1.0, 1.0, 0.0, 0.0])) if live else GraphParams()
    play = jax.jit(jax.vmap(lambda key: uniform_episode(env, key, noise)))
    states, (rewards, ended, truncated, lengths, legal) = play(jax.random.split(getkey(), 32))
    assert not bool(jnp.any(truncated)) and bool(jnp.any(~legal))
    last = jnp.argmax(ended, axis=1)
    assert bool(jnp.all(jnp.any(ended, axis=1)))  # what is not legal is replaced, so every episode ends in time
    if not live:
        np.testing.assert_array_equal(last + 1, jnp.sum(PROBLEMS.mask, axis=1)[states.problem])
    until = jnp.arange(env.max_steps) <= last[:, None]
    length = jnp.take_along_axis(lengths, last[:, None], axis=1)[:, 0]
    loss = (states.estimate - length) / env.outlooks.bound[states.problem]
    np.testing.assert_allclose(jnp.sum(jnp.where(until, rewards, 0.0), axis=1), loss, rtol=1e-4, atol=1e-5)


def test_scorer_moves_with_its_rows_and_never_picks_what_is_not_legal(getkey):
    problem, ahead = case(1)
    placement = decide_once(problem, start_placement(problem), jnp.asarray(0), jnp.asarray(0))
    seen, _ = see(problem, ahead, placement, 12)
    scorer = PairScorer(8)
    params, score = perturbed(jax.jit(scorer.init)(getkey(), seen)), jax.jit(scorer.apply)
    rows, columns = jax.random.permutation(getkey(), 12), jnp.array([2, 0, 3, 1])
    moved = seen._replace(
        tasks=seen.tasks[rows],
        processors=seen.processors[columns],
        pairs=seen.pairs[rows][:, columns],
        priority=seen.priority[rows][:, columns],
        legal=seen.legal[rows][:, columns],
    )
    scores = score(params, seen).reshape(12, 4)
    np.testing.assert_array_equal(scores == NEVER, ~seen.legal)
    np.testing.assert_allclose(score(params, moved).reshape(12, 4), scores[rows][:, columns], rtol=1e-4, atol=1e-4)


def test_a_task_waits_where_its_processor_is_busy_and_nothing_shows_noise_beforehand():
    problem, ahead = case(1)
    zero, one = jnp.asarray(0), jnp.asarray(1)
    seen = []
    for factor in (1.0, 1.5):
        placement = decide_once(problem, start_placement(problem), zero, zero, problem.durations * factor, live=True)
        seen.append(see(problem, ahead, placement, 12, live=True))
    jax.tree.map(np.testing.assert_array_equal, *seen)
    waited = decide_once(problem, placement, one, zero, problem.durations * 1.5, live=True)
    assert float(waited.clock) == pytest.approx(16.5)  # potrf on a GPU: 11 s, half as long again
    assert int(waited.processor[1]) == -1


def heat_of(limit, active=30.0, slope=0.05):
    modes = SharedPackage(("a", "b", "c", "d")).network().modes()
    power = jnp.full(4, active)
    return Heat(modes, power, jnp.full(4, 1.0), jnp.asarray(limit), jnp.asarray(slope))


def test_heat_lengthens_schedules_the_more_the_lower_the_limit():
    problem = case(1)[0]

    @jax.jit
    @jax.vmap
    def length(limit):
        heat = heat_of(limit)  # the same decisions for every limit: one task after the other on one processor

        def body(placement, _):
            ready = jnp.any(make_offers(problem, placement, live=True, heat=heat).legal, axis=1)
            placement = decide(problem, placement, jnp.argmax(ready), jnp.asarray(0), live=True, heat=heat)
            return placement, jnp.max(placement.rise)

        placement, rises = jax.lax.scan(body, start_placement(problem, heat), length=2 * SIZE)
        return makespan(placement), is_done(problem, placement), jnp.max(rises)

    lengths, done, rises = length(jnp.array([1e6, 20.0, 10.0, 5.0, 1.0]))
    assert bool(jnp.all(done)) and float(rises[0]) > 20.0
    assert bool(jnp.all(jnp.diff(lengths) > 0))
    assert float(lengths[0]) == pytest.approx(float(jnp.sum(problem.durations[:, 0])), rel=1e-5)


def test_noise_has_its_floor_and_never_makes_a_task_free(getkey):
    nominal = jnp.full((1000, 4), 11.0)
    drawn = draw_durations(getkey(), nominal, GraphParams(sigma=jnp.array([3.0, 3.0, 0.0, 0.0])))
    assert float(drawn[:, :2].min()) == 9.0  # 11 - 2
    np.testing.assert_array_equal(drawn[:, 2:], nominal[:, 2:])
    assert bool(jnp.all(draw_durations(getkey(), jnp.full((1000, 4), 1.0), GraphParams(sigma=3.0)) >= 0.1 * (1 - 1e-6)))


TINY = GraphTrainConfig(updates=3, problems=2, plays=2, hidden=8, window=8)


@pytest.fixture(scope="module")
def trained():
    train = jax.jit(make_graph_train(TINY, training_problems(count=8, random_graphs=1)))
    return train, train(jax.random.key(0))


@pytest.mark.slow
def test_training_is_reproducible_and_learns_something(trained):
    train, (params, progress) = trained
    again, _ = train(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert progress.shape == (3,) and bool(jnp.all(progress >= 1 - 1e-6))
    assert float(jnp.abs(params["params"]["head"]["kernel"]).max()) > 0
    assert not np.array_equal(params["params"]["pairs"]["kernel"], train(jax.random.key(1))[0]["params"]["pairs"]["kernel"])


@pytest.mark.slow
def test_one_policy_makes_valid_schedules_of_every_size_and_samples_are_never_worse(trained):
    scheduler = GraphScheduler(trained[1][0], TINY.hidden, TINY.window)
    where = machine(cpus=3, gpus=1)
    large = (lu(4), where, durations(lu(4), ready_times(), where))
    for graph, where, times in (large, CASES[0], CASES[9], CASES[12]):
        greedy, best = (scheduler.schedule(graph, times, where, samples=samples) for samples in (0, 8))
        for schedule in (greedy, best):
            list_scheduling.check_schedule(schedule, graph, times, where)
        assert best.makespan <= greedy.makespan


def test_graphs_of_one_padded_size_share_a_trace():
    traces = 0

    @jax.jit
    def bound(problem):
        nonlocal traces
        traces += 1
        return look(problem, outlook(problem), start_placement(problem), 12)[1]

    bounds = [float(bound(case(number)[0])) for number in range(len(CASES))]
    assert traces == 1 and len(set(bounds)) > 4


@pytest.mark.slow
def test_a_scheduler_survives_a_checkpoint(trained, tmp_path):
    scheduler = GraphScheduler(trained[1][0], TINY.hidden, TINY.window)
    save_graph_scheduler(tmp_path / "s.ckpt", scheduler)
    found = load_graph_scheduler(tmp_path / "s.ckpt")
    jax.tree.map(np.testing.assert_array_equal, found.params, scheduler.params)
    (tmp_path / "t.ckpt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"t\.ckpt"):
        load_graph_scheduler(tmp_path / "t.ckpt")


def test_bad_input_is_refused():
    graph, where, times = CASES[0]
    times = np.asarray(times)
    with pytest.raises(ValueError, match="positive"):
        scheduling_problem(graph, -times, where)
    with pytest.raises(ValueError, match="shape"):
        scheduling_problem(graph, times[:, :3], where)
    with pytest.raises(ValueError, match="n_tasks = 3"):
        scheduling_problem(graph, times, where, n_tasks=3)
    with pytest.raises(ValueError, match="none"):
        stack_problems([])
    with pytest.raises(ValueError, match="heat needs live"):
        GraphSchedulingEnv(PROBLEMS, heat=heat_of(1.0))
    with pytest.raises(ValueError, match="window = 0"):
        GraphSchedulingEnv(PROBLEMS, window=0)
    with pytest.raises(ValueError, match="plays = 1"):
        GraphTrainConfig(plays=1)
    with pytest.raises(ValueError, match="unless live"):
        GraphTrainConfig(spread=0.1)
