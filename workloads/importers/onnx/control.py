"""Rules of operators with bodies: branches, loops, recurrent layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Unsupported, concrete, content
from workloads.importers.onnx.rules import rule

UNROLLED = 64  # loops of a known length up to this one are written out


@rule("If")
def branch(op: Op, condition: Any) -> Any:
    """The branch that a known condition picks, else both under a conditional."""
    assert op.subgraph is not None
    then, other = op.get("then_branch"), op.get("else_branch")
    found = content(op, condition)
    if found is not None:
        return tuple(op.subgraph(then if bool(np.all(found)) else other, ()))
    run = op.subgraph

    def arrays(body: Any) -> Any:
        return lambda: tuple(jnp.asarray(v) for v in run(body, ()))

    shapes = [[(v.shape, v.dtype) for v in jax.eval_shape(arrays(body))] for body in (then, other)]
    if shapes[0] != shapes[1]:
        raise Unsupported(f"node {op.name!r} (If): its condition depends on the data and its branches differ in shape")
    return jax.lax.cond(jnp.all(condition), arrays(then), arrays(other))


@rule("Loop")
def loop(op: Op, trips: Any, condition: Any, *carried: Any) -> Any:
    """A body run a known number of times, or while its condition holds (then it may not collect results)."""
    assert op.subgraph is not None
    body, run = op.get("body"), op.subgraph
    count = len(carried)
    times = None if trips is None else content(op, trips)
    if times is not None and int(times) <= UNROLLED and (condition is None or content(op, condition) is not None):
        return _unrolled(run, body, int(times), condition, list(carried))
    if len(body.output) > 1 + count:
        raise Unsupported(f"node {op.name!r} (Loop): a loop of unknown length that collects results is not read")
    limit = np.iinfo(np.int32).max if trips is None else jnp.asarray(trips, jnp.int32).reshape(())
    start = tuple(jnp.asarray(v) for v in carried)
    first = jnp.asarray(True if condition is None else condition, bool).reshape(())

    def go_on(state: Any) -> Any:
        return state[1] & (state[0] < limit)

    def step(state: Any) -> Any:
        again, *values = run(body, (state[0], state[1], *state[2]))
        same = tuple(jnp.asarray(v).astype(s.dtype) for v, s in zip(values, state[2], strict=True))
        return state[0] + 1, jnp.asarray(again, bool).reshape(()), same

    return jax.lax.while_loop(go_on, step, (jnp.zeros((), jnp.int32), first, start))[2]


def _unrolled(run: Any, body: Any, trips: int, condition: Any, carried: list[Any]) -> Any:
    collected: list[list[Any]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    for i in range(trips):
        if isinstance(condition, np.ndarray) and not np.all(condition):
            break
        condition, *values = run(body, (np.asarray(i, np.int64), np.asarray(True), *carried))
        carried, rows = values[: len(carried)], values[len(carried) :]
        for rows_of, row in zip(collected, rows, strict=True):
            rows_of.append(row)
    stacked = [jnp.stack([jnp.asarray(r) for r in rows]) if rows else jnp.zeros((0,)) for rows in collected]
    return (*carried, *stacked)


@rule("Scan")
def scan(op: Op, *inputs: Any) -> Any:
    """A body run once for each slice along the first axis."""
    assert op.subgraph is not None
    body, run, count = op.get("body"), op.subgraph, int(op.get("num_scan_inputs"))
    for name in ("scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions"):
        if any(op.get(name, ())):
            raise Unsupported(f"node {op.name!r} (Scan): {name} other than 0 are not read")
    carried, rows = inputs[: len(inputs) - count], inputs[len(inputs) - count :]

    def step(state: Any, row: Any) -> Any:
        values = [jnp.asarray(v) for v in run(body, (*state, *row))]
        return tuple(values[: len(state)]), tuple(values[len(state) :])

    last, collected = jax.lax.scan(step, tuple(jnp.asarray(v) for v in carried), tuple(jnp.asarray(v) for v in rows))
    return (*last, *collected)


# Recurrent layers; X [time, batch, inputs], W [directions, gates hidden, inputs], R [directions, gates hidden, hidden]


def _activation(name: str) -> Any:
    known_ones = {
        "sigmoid": jax.nn.sigmoid,
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "hardsigmoid": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),
    }
    if name.lower() not in known_ones:
        raise Unsupported(f"activation {name!r} of a recurrent layer is not read; known: {', '.join(known_ones)}")
    return known_ones[name.lower()]


def _recurrent(op: Op, x: Any, w: Any, r: Any, bias: Any, starts: tuple[Any, ...], cell: Any, gates: int, states: int) -> Any:
    """Every direction of a recurrent layer: Y [time, directions, batch, hidden] and its last states."""
    if op.get("layout", 0):
        x = jnp.swapaxes(jnp.asarray(x), 0, 1)
    hidden, directions = r.shape[2], w.shape[0]
    form = op.get("direction", "forward")
    outputs, lasts = [], []
    for d in range(directions):
        backwards = form == "reverse" or d == 1
        series = jnp.flip(jnp.asarray(x), 0) if backwards else jnp.asarray(x)
        b_in = 0 if bias is None else bias[d][: gates * hidden]
        b_hidden = jnp.zeros(gates * hidden, x.dtype) if bias is None else bias[d][gates * hidden :]
        projected = jnp.matmul(series, jnp.asarray(w)[d].T) + b_in
        zero = jnp.zeros((x.shape[1], hidden), x.dtype)
        first = tuple(zero if s is None else jnp.asarray(s)[d] for s in starts)
        step = cell(d, jnp.asarray(r)[d], b_hidden)
        last, rows = jax.lax.scan(step, first, projected)
        outputs.append(jnp.flip(rows, 0) if backwards else rows)
        lasts.append(last)
    y = jnp.stack(outputs, 1)
    final = [jnp.stack([last[i] for last in lasts]) for i in range(states)]
    if op.get("layout", 0):
        y, final = jnp.transpose(y, (2, 0, 1, 3)), [jnp.swapaxes(s, 0, 1) for s in final]
    return (y, *final)


def _functions(op: Op, default: tuple[str, ...], direction: int) -> list[Any]:
    names = op.get("activations") or list(default) * 2
    return [_activation(n) for n in names[direction * len(default) : (direction + 1) * len(default)]]


@rule("LSTM")
def lstm(
    op: Op, x: Any, w: Any, r: Any, bias: Any = None, lengths: Any = None, h: Any = None, c: Any = None, peep: Any = None
) -> Any:
    """Long short-term memory, gates in the order input, output, forget, cell."""
    if peep is not None and np.any(concrete(op, peep, "peephole")):
        raise Unsupported(f"node {op.name!r} (LSTM): peepholes are not read")

    def cell(direction: int, recurrent: Any, b: Any) -> Any:
        gate, squash, show = _functions(op, ("Sigmoid", "Tanh", "Tanh"), direction)

        def step(state: Any, projected: Any) -> Any:
            i, o, f, g = jnp.split(projected + jnp.matmul(state[0], recurrent.T) + b, 4, -1)
            memory = gate(f) * state[1] + gate(i) * squash(g)
            output = gate(o) * show(memory)
            return (output, memory), output

        return step

    return _recurrent(op, x, w, r, bias, (h, c), cell, 4, 2)


@rule("GRU")
def gru(op: Op, x: Any, w: Any, r: Any, bias: Any = None, lengths: Any = None, h: Any = None) -> Any:
    """Gated recurrent unit, gates in the order update, reset, hidden."""
    after = bool(op.get("linear_before_reset", 0))

    def cell(direction: int, recurrent: Any, b: Any) -> Any:
        gate, squash = _functions(op, ("Sigmoid", "Tanh"), direction)
        hidden = recurrent.shape[1]

        def step(state: Any, projected: Any) -> Any:
            (previous,) = state
            both = jnp.matmul(previous, recurrent[: 2 * hidden].T) + b[: 2 * hidden]
            z, reset = jnp.split(gate(projected[..., : 2 * hidden] + both), 2, -1)
            weight, own = recurrent[2 * hidden :], b[2 * hidden :]
            if after:
                new = squash(projected[..., 2 * hidden :] + reset * (jnp.matmul(previous, weight.T) + own))
            else:
                new = squash(projected[..., 2 * hidden :] + jnp.matmul(reset * previous, weight.T) + own)
            output = (1 - z) * new + z * previous
            return (output,), output

        return step

    return _recurrent(op, x, w, r, bias, (h,), cell, 3, 1)


@rule("RNN")
def rnn(op: Op, x: Any, w: Any, r: Any, bias: Any = None, lengths: Any = None, h: Any = None) -> Any:
    """The plain recurrent layer."""

    def cell(direction: int, recurrent: Any, b: Any) -> Any:
        (squash,) = _functions(op, ("Tanh",), direction)

        def step(state: Any, projected: Any) -> Any:
            output = squash(projected + jnp.matmul(state[0], recurrent.T) + b)
            return (output,), output

        return step

    return _recurrent(op, x, w, r, bias, (h,), cell, 1, 1)


@rule("com.microsoft::DynamicQuantizeLSTM")
def quantised_lstm(
    op: Op,
    x: Any,
    w: Any,
    r: Any,
    bias: Any,
    lengths: Any,
    h: Any,
    c: Any,
    peep: Any,
    w_scale: Any,
    w_zero: Any,
    r_scale: Any,
    r_zero: Any,
) -> Any:
    """An LSTM whose 8-bit weights [directions, inputs, gates hidden] are scaled when used."""

    def turned(q: Any, scale: Any, zero: Any) -> Any:
        wide = jnp.asarray(q).astype(np.float32) - jnp.reshape(jnp.asarray(zero).astype(np.float32), (-1, 1, 1))
        return jnp.swapaxes(wide * jnp.reshape(jnp.asarray(scale), (-1, 1, 1)), 1, 2)

    return lstm(op, x, turned(w, w_scale, w_zero), turned(r, r_scale, r_zero), bias, lengths, h, c, peep)
