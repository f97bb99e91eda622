"""From a nested jaxpr to a flat graph.

Calls (jit, custom derivatives, checkpoints) are inlined. A scan's body appears once, repeated `length` times; a while
loop's body `trip_count` times, or once with a flag if that is unknown; of a conditional, the branch with most flops.
A loop's carry is an activation as soon as one iteration makes it one. A per-device program (shard_map) is repeated on
every device.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from workloads.importers.graph import Graph, Node, Region, Value, view
from workloads.importers.rules import ELEMENTWISE, RULES, VIEWS, cost_of

CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # the parameter under which a call primitive keeps its body


class Flattener:
    """Walks a jaxpr and appends to a `Graph`; `trip_count` is used for every while loop."""

    def __init__(self, trip_count: int | None) -> None:
        self.graph = Graph()
        self.trip_count = trip_count
        self._leaf_of: dict[int, int] = {}

    # -- values

    def parameter(self, shape: tuple[int, ...], dtype: Any, label: str = "") -> Value:
        """A new parameter."""
        size = math.prod(shape)
        leaf = len(self.graph.leaves)
        self.graph.leaves[leaf] = size
        return Value(shape, dtype, size, constant=True, sources=frozenset((leaf,)), label=label)

    def closed_over(self, array: Any) -> Value:
        """A closed-over array: a parameter, the same one wherever it is used."""
        shape, dtype = np.shape(array), np.result_type(array) if np.isscalar(array) else array.dtype
        key = id(array)
        if key not in self._leaf_of:
            self._leaf_of[key] = len(self.graph.leaves)
            self.graph.leaves[self._leaf_of[key]] = math.prod(shape)
        return Value(shape, dtype, math.prod(shape), constant=True, sources=frozenset((self._leaf_of[key],)))

    def _read(self, env: dict[Any, Value], atom: Any) -> Value:
        if not isinstance(atom, core.Literal):
            return env[atom]
        if np.ndim(atom.val):
            return self.closed_over(atom.val)
        return Value((), np.result_type(atom.val), stored=0, constant=True)

    # -- the walk

    def body(self, jaxpr: Any, args: Sequence[Value], region: Region, scope: str) -> list[Value]:
        """Append the equations of an open or closed jaxpr called with `args`; its results."""
        consts = [self.closed_over(c) for c in getattr(jaxpr, "consts", ())]
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        env: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        for eqn in jaxpr.eqns:
            inputs = [self._read(env, atom) for atom in eqn.invars]
            inner = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            env.update(zip(eqn.outvars, self._equation(eqn, inputs, region, inner), strict=True))
        return [self._read(env, atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Value], region: Region, scope: str) -> list[Value]:
        name = eqn.primitive.name
        if name == "scan":
            return self._scan(eqn.params, inputs, eqn.outvars, region, scope)
        if name == "while":
            return self._while(eqn.params, inputs, region, scope)
        if name == "cond":
            return self._cond(eqn.params["branches"], inputs, region, scope)
        if name == "shard_map":
            return self._shard_map(eqn.params, inputs, eqn.outvars, region, scope)
        if name in ("linear_solve", "custom_linear_solve"):
            lengths, solve = eqn.params["const_lengths"], eqn.params["jaxprs"].solve
            start = lengths.matvec + lengths.vecmat
            return self.body(solve, inputs[start : start + lengths.solve] + inputs[sum(lengths) :], region, scope)
        body = None if eqn.primitive.name in RULES else called_body(eqn)
        if body is not None:
            return self.body(body, inputs, region, scope)
        if _is_view(eqn, inputs):
            return [view(v, shape=o.aval.shape, dtype=o.aval.dtype) for v, o in zip(inputs, eqn.outvars, strict=False)]
        return self._node(name, eqn.params, inputs, [v.aval for v in eqn.outvars], region, scope)

    def _node(self, name: str, params: Any, inputs: list[Value], avals: Any, region: Region, scope: str) -> list[Value]:
        constant = all(v.constant for v in inputs)
        node = Node(name, dict(params), inputs, [], region, math.prod(self.graph.loops[i] for i in region), scope)
        for aval in avals:
            shape = tuple(getattr(aval, "shape", ()))
            value = Value(shape, getattr(aval, "dtype", None), math.prod(shape), constant, region, producer=node)
            if constant:
                value.sources = frozenset().union(*(v.sources for v in inputs))
                value.varying = frozenset().union(*(v.varying for v in inputs))
                if name in ELEMENTWISE and not any(v.stored for v in inputs):
                    value.stored = 0  # computed from numbers in the program: itself a number in the program
            node.outputs.append(value)
        (self.graph.hoisted if constant else self.graph.nodes).append(node)
        return list(node.outputs)

    # -- loops

    def _loop(self, length: int) -> int:
        loop = len(self.graph.loops)
        self.graph.loops[loop] = length
        return loop

    def _iterate(self, bodies: Any, carry: list[Value], loop: int, region: Region) -> tuple[list[Value], list[Value]]:
        """Run `bodies(carry) -> (carry, rest)` until it is known which carried values are activations."""
        active = [not v.constant for v in carry]
        changing: list[bool] = [False] * len(carry)
        while True:
            mark = self._mark()
            entering = [_entering(v, a, c, loop, region) for v, a, c in zip(carry, active, changing, strict=True)]
            leaving, rest = bodies(entering)
            now = [a or not v.constant for a, v in zip(active, leaving, strict=True)]
            moved = [c or v.root is not e.root for c, v, e in zip(changing, leaving, entering, strict=True)]
            if now == active and all(a or m == c for a, m, c in zip(active, moved, changing, strict=True)):
                break
            active, changing = now, moved
            self._rewind(mark)
        self.graph.carried += [(loop, v) for v in leaving if not v.constant]
        for value in leaving:
            value.root.escapes = True
        return [_leaving(v, loop, region[:-1]) for v in leaving], rest

    def _mark(self) -> tuple[int, ...]:
        g = self.graph
        return len(g.nodes), len(g.hoisted), len(g.carried), len(g.flags)

    def _rewind(self, mark: tuple[int, ...]) -> None:
        g = self.graph
        for items, length in zip((g.nodes, g.hoisted, g.carried, g.flags), mark, strict=True):
            del items[length:]

    def _scan(self, params: Any, inputs: list[Value], outvars: Any, region: Region, scope: str) -> list[Value]:
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        if length == 0:
            carry = inputs[n_consts : n_consts + n_carry]
            return carry + [Value(v.aval.shape, v.aval.dtype, 0, constant=True) for v in outvars[n_carry:]]
        loop = self._loop(length)
        inner = (*region, loop)
        consts, carry, stacked = inputs[:n_consts], inputs[n_consts : n_consts + n_carry], inputs[n_consts + n_carry :]
        slices = [_slice(v, v.shape[1:], loop) for v in stacked]

        def run(entering: list[Value]) -> tuple[list[Value], list[Value]]:
            results = self.body(params["jaxpr"], [*consts, *entering, *slices], inner, scope)
            return results[:n_carry], results[n_carry:]

        carry, rest = self._iterate(run, carry, loop, inner)
        return carry + [self._stack(v, var.aval, loop, inner, scope) for v, var in zip(rest, outvars[n_carry:], strict=True)]

    def _stack(self, value: Value, aval: Any, loop: int, region: Region, scope: str) -> Value:
        """The buffer that collects `value` from every iteration; it is allocated when the loop starts."""
        if value.constant:
            size = math.prod(aval.shape)
            return Value(aval.shape, aval.dtype, size, True, region[:-1], value.sources, value.varying - {loop})
        root = value.root
        producer = root.producer
        if producer is None or producer.region != region or root.size != value.size:
            root = self._node("stack", {}, [value], [jax.ShapeDtypeStruct(value.shape, value.dtype)], region, scope)[0]
            producer = self.graph.nodes[-1]
        root.escapes = True
        buffer = Value(tuple(aval.shape), aval.dtype, math.prod(aval.shape), False, region[:-1], producer=producer, since=loop)
        producer.outputs.append(buffer)
        return buffer

    def _while(self, params: Any, inputs: list[Value], region: Region, scope: str) -> list[Value]:
        if self.trip_count is None:
            self.graph.flags.append("while: trip count unknown, counted once")
        loop = self._loop(self.trip_count or 1)
        inner = (*region, loop)
        n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
        cond_consts, body_consts = inputs[:n_cond], inputs[n_cond : n_cond + n_body]

        def run(entering: list[Value]) -> tuple[list[Value], list[Value]]:
            go_on = self.body(params["cond_jaxpr"], [*cond_consts, *entering], inner, scope)
            return self.body(params["body_jaxpr"], [*body_consts, *entering], inner, scope), go_on

        carry, go_on = self._iterate(run, inputs[n_cond + n_body :], loop, inner)
        self.graph.carried += [(loop, v) for v in go_on if not v.constant]
        return carry

    # -- branches and devices

    def _cond(self, branches: Any, inputs: list[Value], region: Region, scope: str) -> list[Value]:
        work = [self._work(branch, inputs[1:], region, scope) for branch in branches]
        heaviest = work.index(max(work))
        self.graph.flags.append(f"cond: branch {heaviest} of {len(branches)} counted, the one with most flops")
        return self.body(branches[heaviest], inputs[1:], region, scope)

    def _work(self, jaxpr: Any, inputs: list[Value], region: Region, scope: str) -> tuple[float, float]:
        """Flops and transcendentals of a jaxpr, without keeping it."""
        mark = self._mark()
        self.body(jaxpr, inputs, region, scope)
        counted = [(cost, node.repeat) for node in self.graph.nodes[mark[0] :] if (cost := cost_of(node))]
        self._rewind(mark)
        flops = math.fsum(c.work * repeat for c, repeat in counted)
        return flops, math.fsum(c.transcendentals * repeat for c, repeat in counted)

    def _shard_map(self, params: Any, inputs: list[Value], outvars: Any, region: Region, scope: str) -> list[Value]:
        jaxpr, mesh = params["jaxpr"], params["mesh"]
        axes = params.get("manual_axes") or mesh.axis_names
        devices = math.prod(mesh.shape[axis] for axis in axes)
        self.graph.flags.append(f"shard_map: counted on all {devices} devices")
        loop = self._loop(devices)
        inner = (*region, loop)
        local = getattr(jaxpr, "jaxpr", jaxpr)
        args = [
            v if v.shape == var.aval.shape else _slice(v, var.aval.shape, loop)
            for v, var in zip(inputs, local.invars, strict=True)
        ]
        results = self.body(jaxpr, args, inner, scope)
        self.graph.carried += [(loop, v) for v in results if not v.constant]
        for value in results:
            value.root.escapes = True
        return [
            view(v, shape=v.shape, region=region) if v.shape == var.aval.shape else self._stack(v, var.aval, loop, inner, scope)
            for v, var in zip(results, outvars, strict=True)
        ]


def called_body(eqn: Any) -> Any:
    """The body of a call primitive, one that takes and returns what its body does; else None."""
    for key in CALLS:
        body = eqn.params.get(key)
        inner = getattr(body, "jaxpr", body)
        if len(getattr(inner, "invars", ())) == len(eqn.invars) and len(getattr(inner, "outvars", ())) == len(eqn.outvars):
            return body
    return None


def _is_view(eqn: Any, inputs: Sequence[Value]) -> bool:
    """Whether an equation only renames its operands; a transposition does if it keeps the order of the long axes."""
    if eqn.primitive.name == "transpose":
        kept = [axis for axis in eqn.params["permutation"] if inputs[0].shape[axis] != 1]
        return kept == sorted(kept)
    same_dtype = eqn.primitive.name == "convert_element_type" and inputs[0].dtype == eqn.outvars[0].aval.dtype
    return same_dtype or eqn.primitive.name in VIEWS


def _slice(value: Value, shape: tuple[int, ...], loop: int) -> Value:
    """One iteration's share of `value`."""
    part = view(value, shape=tuple(shape), region=value.region)
    if value.constant:
        part.varying = value.varying | {loop}
    return part


def _entering(value: Value, active: bool, changing: bool, loop: int, region: Region) -> Value:
    """A carried value as the body sees it: the initial one's storage, or a copy of an initial constant."""
    if active and value.constant:
        return Value(value.shape, value.dtype, value.size, constant=False, region=region, since=loop)
    inside = view(value, shape=value.shape, region=region)
    if not active and changing:
        inside.varying = value.varying | {loop}
    return inside


def _leaving(value: Value, loop: int, region: Region) -> Value:
    """A carried value as it is seen after the loop."""
    outside = view(value, shape=value.shape, region=region)
    outside.varying = value.varying - {loop}
    return outside


def abstract_leaves(args: Sequence[Any]) -> Iterator[tuple[int, str, Any]]:
    """The leaves of positional arguments as (argument index, path, leaf)."""
    for index, arg in enumerate(args):
        for path, leaf in jax.tree_util.tree_flatten_with_path(arg)[0]:
            yield index, jax.tree_util.keystr(path), leaf
