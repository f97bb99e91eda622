"""Layer lists of systolic-array simulators: lowered convolutions, and files as they are found."""

import numpy as np
import pytest

from costmodel import Systolic, lower_convolution, read_topology, topology_table

pytestmark = pytest.mark.single  # whole numbers: the same in either precision


def test_convolutions_become_products():
    # 224 x 224 x 3, 64 filters of 7 x 7, stride 2: ceil(219 / 2) = 110 by the tool's rule, floor(217 / 2) + 1 = 109 inside
    assert lower_convolution(224, 224, 7, 7, 3, 64, 2) == (110 * 110, 64, 147, 1)
    assert lower_convolution(224, 224, 7, 7, 3, 64, 2, form="valid").m == 109 * 109
    assert lower_convolution(56, 56, 3, 3, 64, 64, 1) == (54 * 54, 64, 576, 1)
    assert lower_convolution(56, 56, 3, 3, 64, 64, 1, padding=1).m == 56 * 56
    assert lower_convolution(56, 56, 3, 3, 64, 128, 1, padding=1, depthwise=True) == (56 * 56, 2, 9, 64)


def test_topology_files(tmp_path):
    convolutions = tmp_path / "net.csv"
    convolutions.write_text(
        "Layer name, IFMAP Height, Width, r, s, Channels, Num Filter, Strides,\nConv1, 224, 224, 7, 7, 3, 64, 2,\n"
    )
    table = read_topology(convolutions)
    assert (int(table.m[0]), int(table.n[0]), int(table.k[0])) == (12_100, 64, 147)
    assert table.info is not None and table.info.op_names == ("Conv1",)
    products = tmp_path / "gemm.csv"
    products.write_text("Layer, M, N, K,\nQKT, 1024, 1024, 64,\nQKTV, 1024, 64, 1024,\n")
    # os on 128 x 128: 64 folds of 64 + 254 and 8 of 1024 + 254
    cycles = Systolic(rows=128.0, columns=128.0, dataflow="os").exact_cycles(read_topology(products))
    np.testing.assert_array_equal(cycles, [64 * 318, 8 * 1 * 1278])


CONVOLUTIONS = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,"
# As found in the simulator's own repositories and its users'
FILES = {
    "notes": (CONVOLUTIONS + "\n\n\tC_dw, 112, 112, 3, 3, 1, 1, 1,#dw\nFC, 1,1,1,1,9,10, 1", [(12100, 1, 9, 1), (1, 10, 9, 1)]),
    "columns": (CONVOLUTIONS + ",,Eh,e2\n,,,,,,,,,,\nConv1,224,224,7,7,3,64,2,,,110,12100\n", [(12100, 64, 147, 1)]),
    "tabs": (CONVOLUTIONS.replace(",", "\t") + "\nConv1_1\t572\t572\t3\t3\t1\t64\t1\t\n", [(324900, 64, 9, 1)]),
    "batch": (CONVOLUTIONS + " Batch Size,\nA, 8, 8, 1, 1, 3, 5, 1, 4,\n", [(256, 5, 3, 1)]),
    "two strides": (CONVOLUTIONS[:-8] + "Stride height, Stride width,\nA, 9, 9, 3, 3, 2, 5, 2, 3,\n", [(12, 5, 18, 1)]),
    "titles": (CONVOLUTIONS + "\n\nAlphaGoZero,\nConv, 19, 19, 3, 3, 17, 256, 1,\n", [(289, 256, 153, 1)]),
    "depthwise": (CONVOLUTIONS + "\nConvDP_1, 12, 12, 3, 3, 8, 2, 1,\n", [(100, 2, 9, 8)]),  # 8 layers of one channel there
    "products": ("\ufeffLAYER,m,n,k\r\nA , 512,384, 64\r\n\r\n# note\r\nB,1,5,7,1:1,\r\n", [(512, 384, 64, 1), (1, 5, 7, 1)]),
    "no header": ("A,3,4,5,\nB,6,7,8,\n", [(3, 4, 5, 1), (6, 7, 8, 1)]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_as_they_are_found(name, tmp_path):
    text, layers = FILES[name]
    path = tmp_path / "net.csv"
    path.write_bytes(text.encode())
    table = read_topology(path)
    assert list(zip(*(x.tolist() for x in (table.m, table.n, table.k, table.groups)), strict=True)) == layers


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("L,M,N,K,Sparsity,\nA,3,5,16,3:4,\n", "layer 'A': sparsity = '3:4' is outside its range"),
        (CONVOLUTIONS + "\nFC, 1, 1, 1, ,1 2, 2, 1,\n", "not a row of whole numbers"),
        ("L,M,N,K\n", "at least one operation"),
    ],
    ids=["sparsity", "hole", "empty"],
)
def test_files_that_cannot_be_read_say_so(rows, message, tmp_path):
    path = tmp_path / "net.csv"
    path.write_text(rows)
    with pytest.raises(ValueError, match=message):
        read_topology(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_convolution(4, 4, 5, 5, 1, 1), "kernel = 5 is outside its range"),
        (lambda: lower_convolution(4, 4, 3, 3, 2, 3, depthwise=True), "filters = 3 is outside its range"),
        (lambda: topology_table([("a", 1, 2)]), "layer 'a' has 2 numbers"),
        (lambda: topology_table([("a", 1, "x", 2)]), "not a row of whole numbers"),
    ],
    ids=["kernel", "depthwise", "row", "number"],
)
def test_bad_layers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
