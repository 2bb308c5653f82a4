"""Lets ``import torchvision`` (so timm) work beside a CPU build of torch.

No CPU build of torchvision is on the package registry.  Its Python side registers fake kernels for ``torchvision::nms`` and
``torchvision::qnms`` as it is imported and fails when the compiled library that declares them could not be loaded.  Declaring the two
schemas first is enough for everything but ``torchvision.io`` and ``torchvision.ops.nms`` themselves.  The hook
costs nothing until torchvision is asked for, and does nothing where the compiled operators can load.
"""

import sys
from importlib.abc import MetaPathFinder

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # kept alive: the declarations vanish with the object


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _declare_missing_operators() -> None:
    global _library
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return  # the registry's torchvision matches these builds
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


def install() -> None:
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
