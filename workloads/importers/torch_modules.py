"""PyTorch modules, by way of their ONNX export: `load(module, example)`.

The exporter folds batch normalisation and paddings; it needs the packages torch, onnx and onnxscript beside ours. PyTorch is
never imported here: a module can only come from a program that has done so.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from workloads.importers.graph_files import profile_file
from workloads.ops import OpTable


def is_torch_module(source: object) -> bool:
    """Is this a `torch.nn.Module`?"""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def profile_torch(module: Any, *args: Any, **options: Any) -> OpTable:
    """The operation table of `module(*args)` in evaluation mode; `options` are those of `profile`.

    Raises ValueError if the module has no export.
    """
    torch: Any = sys.modules["torch"]
    training = module.training
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{type(module).__name__}.onnx"
        try:
            torch.onnx.export(module.eval(), args, path, dynamo=True, verbose=False)
        except Exception as error:  # the exporter raises many kinds, of torch, onnx and onnxscript
            text = str(error).strip().partition("\n")[0][:300]
            raise ValueError(f"{type(module).__name__} has no ONNX export: {text}") from error
        finally:
            module.train(training)
        return profile_file(path, **options)
