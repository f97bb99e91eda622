"""PyTorch modules by way of their ONNX export; with PyTorch itself where it is installed (it is no dependency of ours)."""

import sys
import types

import pytest

import workloads

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'tempo-pim[onnx]'")


@pytest.fixture
def stand_in(monkeypatch):
    """A module `torch` with the two things we use; its exporter writes a matrix product."""
    from onnx import TensorProto, helper, save

    class Module:
        training, seen = True, None

        def __call__(self, x):
            raise AssertionError("an exported module is not called")

        def eval(self):
            self.training = False
            return self

        def train(self, mode):
            self.training = mode

    def export(module, args, path, **options):
        module.seen = (module.training, args)
        if args == ("bad",):
            raise RuntimeError("data-dependent branch\nmany more lines")
        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (2, 3)), ("y", (2, 5))))
        w = helper.make_tensor("w", TensorProto.FLOAT, (3, 5), [0.0] * 15)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        save(helper.make_model(helper.make_graph([node], "g", [x], [y], [w])), path)

    torch = types.SimpleNamespace(nn=types.SimpleNamespace(Module=Module), onnx=types.SimpleNamespace(export=export))
    monkeypatch.setitem(sys.modules, "torch", torch)
    return type("Net", (Module,), {})


def test_a_module_is_exported_in_evaluation_mode_and_left_as_it_was(stand_in):
    net = stand_in()
    table = workloads.load(net, "example")
    assert table.total("macs") == 2 * 3 * 5 and table.info.name == "Net" and table.info.parameters == 15
    assert net.seen == (False, ("example",)) and net.training


def test_what_has_no_export_is_one_line(stand_in):
    with pytest.raises(ValueError, match=r"^Net has no ONNX export: data-dependent branch$"):
        workloads.load(stand_in(), "bad")
    with pytest.raises(ValueError, match="weights"):
        workloads.load(stand_in(), "example", weights=(0,))


def test_attention_of_torch_itself():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.MultiheadAttention(64, 4, batch_first=True)

        def forward(self, x):
            return self.inner(x, x, x)[0]

    # 50 tokens, width 64: four projections and two products of 50 x 50 over 64
    assert workloads.load(Attention(), torch.zeros(1, 50, 64)).total("macs") == 4 * 50 * 64 * 64 + 2 * 50 * 50 * 64
