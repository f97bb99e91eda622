"""The memory models beside published figures: what was calibrated on them, what is predicted, what is reproduced.

plena     manifest and traffic of clm60m (one decoder layer, 64 tokens, mlen 256) from its hyper-parameters; regimes of its
          canonical trace on three links. Reference: PLENA's own Rust models driven with that trace: reproduced.
boards    the source's cycles of two compiled programs: reproduced.
flexgen   OPT-30B with its authors' constants: predicted (they fitted them on other runs). OPT-175B: the disk's rate is fitted to
          one prompt length, the other predicted. OPT-6.7B: the missing read of the GPU's memory added at the data sheet's rate.
llama.cpp one bandwidth fitted to the 7B model; 13B predicted.
dma       set-up time and bandwidth fitted per memory; sizes held back one at a time are predicted.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from costmodel.memory.boards import load_board
from costmodel.memory.dma import fit_transfer, held_back_errors
from costmodel.memory.flexgen import OPT, FlexGenMachine, flexgen_policy, flexgen_times
from costmodel.memory.formats import load_format
from costmodel.memory.generator import decoder_manifest
from costmodel.memory.manifests import Manifest, Regime
from costmodel.memory.regimes import BurstPlan, plan_bursts, regime_times
from costmodel.memory.traces import MemoryTrace, tile_addresses, trace_bursts
from costmodel.studies.comparisons import ValidationRow, series
from physics import replace
from workloads import Transformer

PLENA = "AICrossSim/PLENA_Simulator, pull request 90, Rust memory library"
PROFILER = "AICrossSim/PLENA_Simulator, analytic profiler, board artix7"
FLEXGEN = "Sheng et al., FlexGen, ICML 2023; FMInference/FlexLLMGen"
LLAMA = "ggml-org/llama.cpp issue 39: file size and time per token on one CPU"
DMA = "AICrossSim/PLENA_Simulator, calibration_dma.csv (emulator with Ramulator)"
CLM60M = Transformer("clm-60m", 384, 6, 2, 64, 1408, 1, 49152)  # one of its eight layers; the vocabulary is not used
# Matrix tiles (M) of 256 x 256, vector groups (V, S) of 64 rows: tensor and number of bursts, in order.
CLM60M_BURSTS = (
    "V X 8, V POS 8, V COS 4, V SIN 4, V causal_mask 4, M W_q_0 4, M W_k_0_h0 2, M W_v_0_h0 2, M W_k_0_h1 2, M W_v_0_h1 2, "
    "M R_rope 4, S K_stored_0_h0 4, S V_stored_0_h0 4, S K_stored_0_h1 4, S V_stored_0_h1 4, M K_stored_0_h0 2, "
    "M V_stored_0_h0 2, M K_stored_0_h1 2, M V_stored_0_h1 2, M W_o_0 4, M W_gate_0 12, M W_up_0 12, M W_down_0 12"
)
COLUMNS = {"X": 512, "POS": 512, "W_q_0": 512, "W_o_0": 512, "W_gate_0": 1536, "W_up_0": 1536, "W_down_0": 512}  # others 256
CLM60M_SECONDS = {  # host link B/s: resident, kv-swap, weight-stream, layer-swap, host-stream
    1.5e9: (323.918714e-6, 899.833280e-6, 4947.301443e-6, 3468.577975e-6, 6013.625394e-6),
    60e6: (323.890392e-6, 15055.540974e-6, 73104.723117e-6, 78966.055806e-6, 89899.696231e-6),
    4.75e6: (323.899555e-6, 186570.180628e-6, 898914.650614e-6, 993710.661466e-6, 1106281.153724e-6),
}
REGIMES = (Regime.RESIDENT, Regime.KV_SWAP, Regime.WEIGHT_STREAM, Regime.LAYER_SWAP, Regime.HOST_STREAM)
PROGRAMS = {  # mlen, blen: opcode counts of the compiled clm60m layer that cost more than one cycle; all others; cycles
    (256, 64): (
        dict(M_MM=920, M_BTMM=2, V_ADD_VV=8192, V_ADD_VF=1536, V_SUB_VF=3072, V_MUL_VF=9728, V_MUL_VV=6656, V_RED_SUM=3072)
        | dict(V_RED_MAX=1536, V_EXP_V=3072, V_RECI_V=1536, S_SQRT_FP=768, S_RECI_FP=2304, S_EXP_FP=1536)
        | dict(H_PREFETCH_V=448, H_PREFETCH_M=64, H_STORE_V=256),
        114_438,
        796_822.0,
    ),
    (64, 16): (
        dict(M_MM=8096, M_TMM=96, V_ADD_VV=4608, V_ADD_VF=1408, V_SUB_VF=1792, V_MUL_VF=4224, V_MUL_VV=4992, V_RED_SUM=1536)
        | dict(V_RED_MAX=384, V_EXP_V=1792, V_RECI_V=1408, S_SQRT_FP=192, S_RECI_FP=576, S_EXP_FP=384)
        | dict(H_PREFETCH_V=240, H_PREFETCH_M=512, H_STORE_V=64),
        81_610,
        1_106_682.0,
    ),
}
FLEXGEN_ROWS = {  # model, prompt: sequences, policy, tokens/s
    ("opt-6.7b", 512): (2, (1, 0, 1, 0, 1, 0), 25.26),
    ("opt-6.7b", 256): (4, (1, 0, 1, 0, 1, 0), 53.29),
    ("opt-30b", 512): (144, (0.2, 0.8, 0, 1, 0, 1), 7.32),
    ("opt-30b", 256): (320, (0.1, 0.9, 0, 1, 0, 1), 16.01),
    ("opt-175b", 512): (256, (0, 0.5, 0, 0, 0, 1), 0.69),
    ("opt-175b", 256): (512, (0, 0.5, 0, 0, 0, 1), 1.36),
}
LLAMA_ROWS = {"7B": (4.2e9, 100.43e-3), "13B": (7.9e9, 190.74e-3)}  # bytes, seconds per token
DMA_BYTES = tuple(8192 * 2**power for power in range(7))
DMA_NANOSECONDS = {
    "HBM2, 8 channels": (119.4688, 200.3125, 354.2812, 663.4688, 1284.1562, 2521.9375, 4983.4062),
    "HBM2, 32 channels": (100.125, 121.0, 161.6562, 278.0625, 501.875, 939.4062, 1816.6562),
    "HBM3, 16 channels": (191.5625, 251.8125, 429.7812, 759.0, 1438.9688, 2797.2188, 5514.4062),
}


class Validation(tuple[ValidationRow, ...]):
    """Rows of a comparison; prints as one table per role."""

    def __str__(self) -> str:
        head = ("target", "quantity", "published", "model", "error", "source")
        parts = []
        for role in ("predicted", "calibrated", "reproduced"):
            rows = [
                (r.target, r.quantity, f"{r.published:.6g} {r.unit}", f"{r.modelled:.6g}", f"{100 * r.error:+.2f} %", r.source)
                for r in self
                if r.role == role
            ]
            if rows:
                parts.append(f"{role}\n" + _aligned([head, *rows]))
        return "\n\n".join(parts)

    __repr__ = __str__


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows)


def validate_memory() -> Validation:
    """Every comparison of the memory models, calibrated anew."""
    return Validation([*_plena_rows(), *_board_rows(), *_flexgen_rows(), *_llama_rows(), *_dma_rows()])


def clm60m_manifest() -> Manifest:
    """One layer of clm60m for 64 tokens at mlen 256, laid out as PLENA's compiler does, on a board of 512 MiB."""
    return decoder_manifest(CLM60M, 64, 256, alignment=65536, capacity=2**29)


def clm60m_trace() -> MemoryTrace:
    """Every byte that the compiled layer reads, in a canonical order (not the compiled one)."""
    starts = {region.name: region.offset for region in clm60m_manifest().regions}
    fmt, bursts = load_format("plena-mxfp8"), []
    for item in CLM60M_BURSTS.split(", "):
        kind, name, count = item.split()
        columns = COLUMNS.get(name, 256)
        rows = 1536 if name == "W_down_0" else 512 if name.startswith("W_") else 256
        group = 256 if kind == "M" else 64
        tiles = [(t + g, c) for t in range(0, rows, 256) for c in range(0, columns, 256) for g in range(0, 256, group)]
        chosen = (tiles[index % len(tiles)] for index in range(int(count)))
        bursts += [tile_addresses(starts[name], (rows, columns), origin, (group, 256), fmt) for origin in chosen]
    return trace_bursts(bursts)


@functools.cache
def clm60m_plan() -> BurstPlan:
    """The trace prepared for `regime_times` under the published rules; replayed once."""
    return plan_bursts(clm60m_manifest(), clm60m_trace())


def _plena_rows() -> list[ValidationRow]:
    manifest, plan, links = clm60m_manifest(), clm60m_plan(), list(CLM60M_SECONDS)
    ours = {regime: regime_times(plan, manifest.capacity, links, regime) for regime in REGIMES}
    figures: Mapping[str, tuple[float, float]] = {
        "weight bytes": (3_833_856, manifest.footprint.weight),
        "kv bytes": (294_912, manifest.footprint.kv),
        "activation bytes": (589_824, manifest.footprint.activation),
        "bytes read": (6_144_000, clm60m_trace().bytes),
        "bytes streamed": (4_259_840, ours[Regime.WEIGHT_STREAM].streamed_bytes[0]),
        "bytes swapped": (884_736, ours[Regime.KV_SWAP].swapped_bytes[0]),
        "swaps": (10, ours[Regime.KV_SWAP].swaps[0]),
    }
    rows = [
        ValidationRow("clm60m", name, "1" if name == "swaps" else "B", known, model, "reproduced", PLENA)
        for name, (known, model) in figures.items()
    ]
    for index, regime in enumerate(REGIMES):
        known = [CLM60M_SECONDS[link][index] for link in links]
        rows.append(series(f"clm60m, {regime}", "time", "s", known, ours[regime].time[0], "reproduced", PLENA))
    return rows


def _board_rows() -> list[ValidationRow]:
    rows = []
    for (mlen, blen), (counts, single, cycles) in PROGRAMS.items():
        board = replace(load_board("custom_a7"), {"mlen": mlen, "blen": blen})
        ours = board.program_cycles(counts, "published") + single
        rows.append(ValidationRow(f"custom_a7, mlen {mlen}", "program", "cycle", cycles, ours, "reproduced", PROFILER))
    return rows


def flexgen_throughput(name: str, prompt: int, machine: FlexGenMachine, memory: bool = True) -> jax.Array:
    """Tokens per second of one published run (32 new tokens) on `machine`."""
    sequences, fractions, _ = FLEXGEN_ROWS[name, prompt]
    return flexgen_times(OPT[name], machine, flexgen_policy(*fractions), prompt, 32, sequences, memory).throughput


def calibrate_flexgen_disk(name: str = "opt-175b", prompt: int = 512) -> FlexGenMachine:
    """FlexGen's machine with the disk's read rate fitted to one published throughput (Newton steps on logarithms)."""
    target = math.log(FLEXGEN_ROWS[name, prompt][2])
    machine = FlexGenMachine()

    def residual(log_rate: jax.Array) -> jax.Array:
        return jnp.log(flexgen_throughput(name, prompt, replace(machine, {"disk_to_host": jnp.exp(log_rate)}))) - target

    log_rate = jnp.log(machine.disk_to_host)
    step = jax.jit(lambda x: x - residual(x) / jax.grad(residual)(x))
    for _ in range(8):
        log_rate = step(log_rate)
    return replace(machine, {"disk_to_host": float(jnp.exp(log_rate))})


def _flexgen_rows() -> list[ValidationRow]:
    fitted, plain, rows = calibrate_flexgen_disk(), FlexGenMachine(), []
    for (name, prompt), (_, _, known) in FLEXGEN_ROWS.items():
        ours = float(flexgen_throughput(name, prompt, fitted if name == "opt-175b" else plain))
        role = "calibrated" if (name, prompt) == ("opt-175b", 512) else "predicted"
        rows.append(ValidationRow(f"flexgen {name}, {prompt} tokens", "throughput", "token/s", known, ours, role, FLEXGEN))
    bare = [(name, prompt) for name, prompt in FLEXGEN_ROWS if name == "opt-6.7b"]
    without = [float(flexgen_throughput(*run, plain, memory=False)) for run in bare]
    known = [FLEXGEN_ROWS[run][2] for run in bare]
    rows.append(series("flexgen opt-6.7b, no memory term", "throughput", "token/s", known, without, "predicted", FLEXGEN))
    return rows


def _llama_rows() -> list[ValidationRow]:
    fitted = fit_transfer(*([value] for value in LLAMA_ROWS["7B"]), setup=False)
    return [
        ValidationRow(
            f"llama.cpp {name}", "time per token", "s", time, float(fitted.time(size)),
            "calibrated" if name == "7B" else "predicted", LLAMA,
        )
        for name, (size, time) in LLAMA_ROWS.items()
    ]  # fmt: skip


def _dma_rows() -> list[ValidationRow]:
    rows, sizes = [], np.array(DMA_BYTES, np.float64)
    for name, nanoseconds in DMA_NANOSECONDS.items():
        times = 1e-9 * np.array(nanoseconds)
        inside = np.asarray(fit_transfer(sizes, times).time(jnp.asarray(sizes, float)), np.float64)
        held = times * (1 + held_back_errors(sizes, times))
        rows.append(series(f"dma, {name}", "time", "s", times, inside, "calibrated", DMA))
        rows.append(series(f"dma, {name}, size held back", "time", "s", times[1:-1], held[1:-1], "predicted", DMA))
        ends = [0, -1]
        rows.append(series(f"dma, {name}, beyond the fit", "time", "s", times[ends], held[ends], "predicted", DMA))
    return rows
