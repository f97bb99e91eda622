"""The universal parser: names, sizes, files, functions and tables become one workload, or one clear line."""

from pathlib import Path

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import workloads
from workloads import UnknownName, complexity, find_kernel, list_kernels, resolve
from workloads.kernel_tables import TYPICAL, kernel_table
from workloads.kernels import KERNELS
from workloads.names import build_index
from workloads.resolution import shared_index

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

SPELLINGS = ("gemm 512x256x128", "GEMM(512, 256, 128)", "matmul m=512 n=256 k=128", "gemm 2^9 x 256 x 1.28e2", "gemm 512 256 128")


@pytest.mark.parametrize("text", SPELLINGS)
def test_spellings_of_one_product(text):
    """512 x 256 x 128: 2^9+8+7 = 16,777,216 MACs, twice as many operations; weights are k x n = 32,768."""
    work = resolve(text)
    assert (work.table.total("macs"), work.table.total("flops"), work.table.total("weights")) == (2**24, 2**25, 2**15)
    assert dict(work.sizes) == {"m": 512, "n": 256, "k": 128} and work.kernel is find_kernel("gemm")


def test_a_function_a_table_and_a_text_are_the_same_work():
    shapes = jax.ShapeDtypeStruct((128, 256), jnp.float32), jax.ShapeDtypeStruct((512, 128), jnp.float32)
    found = [resolve(lambda w, x: x @ w, *shapes, weights=(0,)), resolve("gemm 512x256x128")]
    found.append(resolve(found[0].table))
    for column in ("macs", "flops", "weights", "inputs", "outputs"):
        assert len({work.table.total(column) for work in found}) == 1
    assert resolve(found[1]) is found[1]


@pytest.mark.parametrize(
    ("text", "name", "macs"),
    [
        ("FFT", "fft n=1048576", 0),
        ("fast fourier transform", "fft n=1048576", 0),
        ("kws", "ds-cnn", 2_656_768),  # MLPerf Tiny
        ("ResNet 8", "resnet8", 12_501_632),
        ("gpt2 tokens=16", "gpt2 prefill of 16", None),
        ("GPT-2 context=64", "gpt2 decode at 64", None),
        ("gemm 512", "gemm n=512", 2**27),
        ("convolution n=8 channels=2 filters=4", "convolution n=8 channels=2 filters=4", 8 * 8 * 4 * 2 * 9),
        ("attention 64", "attention n=64", 2 * 64 * 64 * 64),
    ],
)
def test_names(text, name, macs):
    work = resolve(text)
    assert work.name == name
    assert macs is None or work.table.total("macs") == macs


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("fftt", UnknownName, "unknown workload 'fftt'; close: fft"),
        ("resnet9", UnknownName, "close: resnet8"),
        ("choleski 100", UnknownName, "close: cholesky"),
        ("", UnknownName, "unknown workload ''; known: gemm"),
        ("gemm 3x4", ValueError, "gives 2 sizes; gemm takes one, or m x n x k"),
        ("gemm q=3", ValueError, "gemm has no size 'q'; its sizes: n, m, k"),
        ("gemm n=big", ValueError, "'big' is not a size; write 1024, 1e6 or 2\\^20"),
        ("gemm 1e400", ValueError, "1e400 is outside the range of a size, \\[0, 2\\^53\\]"),
        ("gemm 4 n=3", ValueError, "gives the size 'n' twice"),
        ("gemm 0", ValueError, "n = 0 is below 1"),
        ("gemm 4e9", ValueError, "outside its range"),
        ("spmv n=3", ValueError, "spmv needs the size 'nnz'"),
        ("resnet8 n=3", ValueError, "sizes go with a kernel or a transformer, 'resnet8' is a network"),
        ("gpt2 tokens=1.5", ValueError, "tokens = 1.5 is not a whole number"),
        ("gpt2 n=3", ValueError, "gpt2 has no size 'n'; its sizes: tokens, sequences, past"),
        ("model.h5", ValueError, "neither a name nor a file that can be read; files end in .onnx or .tflite"),
        ("nowhere.onnx", ValueError, "nowhere.onnx: cannot be read"),
        (Path("nowhere.tflite"), ValueError, "nowhere.tflite: cannot be read"),
        (3, ValueError, "a workload is a name, a file, a function or an OpTable, got int"),
        (None, ValueError, "got NoneType"),
    ],
)
def test_errors_are_one_line(text, kind, message):
    with pytest.raises(kind, match=message) as error:
        resolve(text)
    assert "\n" not in str(error.value) and isinstance(error.value, ValueError)


def test_functions_that_do_not_take_their_arguments_are_refused_in_one_line():
    for args in ((), (jnp.ones((2, 3)),)):  # none, and a product of (2, 3) with itself
        with pytest.raises(ValueError, match="<lambda> cannot be traced with these arguments: ") as error:
            resolve(lambda x: x @ x, *args)
        assert "\n" not in str(error.value)


def test_unknown_names_are_key_errors_too():
    with pytest.raises(KeyError, match="close: fft"):
        resolve("fftt")


def test_arguments_go_with_functions_and_files_alone():
    table = resolve("gemm 4").table
    for source in (table, "gemm 4"):
        with pytest.raises(ValueError, match="arguments go with a function or a file"):
            resolve(source, jnp.ones(3))
    with pytest.raises(ValueError, match="one table, got columns of shape"):
        resolve(workloads.stack([table, table]))


@hypothesis.given(st.text(alphabet="gemnftx0123456789 =.^*e-()/,kN", max_size=24))
@hypothesis.settings(max_examples=300)
def test_any_text_resolves_or_is_refused_in_one_line(text):
    try:
        resolve(text)
    except ValueError as error:
        assert "\n" not in str(error)


def test_one_index_of_names():
    """Kernels, networks and transformers share one space of names; whoever takes a name that is taken is refused."""
    index = shared_index()
    assert {index[n].name for n in ("matmul", "kws", "gpt2")} == {"gemm", "ds-cnn", "gpt2"}
    twin = KERNELS[0]._replace(name="other", aliases=("K-W s",))
    with pytest.raises(ValueError, match="name 'K-W s' is claimed by both 'ds-cnn' and 'other'"):
        build_index([*dict.fromkeys(index.values()), twin])
    with pytest.raises(UnknownName, match="unknown kernel 'resnet8'"):
        find_kernel("resnet8")
    with pytest.raises(UnknownName, match="unknown network 'fft'"):
        workloads.load("fft")


@pytest.mark.parametrize("name", list_kernels())
def test_kernel_tables_keep_work_and_traffic(name):
    """All rows together do W(n); a kernel without products moves Q(n; S), less with more fast memory."""
    sizes, kernel = TYPICAL[name], find_kernel(name)
    few, many = (kernel_table(kernel, sizes, fast) for fast in (1e3, 1e9))
    whole = complexity(name, fast=1e3, **sizes)
    np.testing.assert_allclose(few.total("flops"), whole.work, rtol=1e-5)
    if not few.total("macs"):
        np.testing.assert_allclose(few.total("inputs"), whole.traffic, rtol=1e-5, atol=1)
        assert many.total("inputs") <= few.total("inputs")


def test_spikes_count_their_own_products():
    """1000 neurons, 100 steps, 5 % spiking, 100 outputs: 0.05 x 1e7 = 5e5 MACs of a 1000 x 100 matrix, 4e5 neuron operations."""
    table = resolve("spiking layer n=1000").table
    assert (table.total("macs"), table.total("flops")) == (500_000, 1_400_000)
    assert (table.m[0], table.n[0], table.k[0]) == (100, 100, 1000)
