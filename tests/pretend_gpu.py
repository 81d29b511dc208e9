"""A GPU made of the CPU, so that code for GPUs is tested where there is none.

A tensor on it says that its device is `cuda:0` and keeps its numbers in a tensor on the CPU. It is as strict
as a real one: operations on tensors of both sides raise, and numpy cannot read it. Whatever makes the CPU
wait for the GPU is noted. CUDA's own kernels, streams, memory and speed are not shown by it.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda:0")
_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
_WAITS = (
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
)
"""Their answer is a number on the CPU, or has a size that depends on numbers on the GPU."""


class GpuTensor(torch.Tensor):
    """A tensor on the pretended GPU. Inside torch it is one of the device `meta`, which has shapes only."""

    inner: torch.Tensor
    waits: list[str] = []  # noqa: RUF012 (of all tensors)
    """What was waited for, in order."""
    operations = 0
    """How many were computed so far; views are not."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "GpuTensor":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        tensor: GpuTensor = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device="meta", **layout)
        tensor.inner = inner
        return tensor

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.inner})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """What makes a tensor from nothing makes it on the GPU if told so."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation of torch, on the side where its tensors are."""
    tensors = [t for t in tree_leaves([args, kwargs]) if isinstance(t, torch.Tensor)]
    there = [isinstance(t, GpuTensor) for t in tensors]
    device = kwargs.get("device")
    on_gpu = any(there)
    if device is not None:
        on_gpu = torch.device(device).type in ("cuda", "meta")
        kwargs = kwargs | {"device": torch.device("cpu")}
    if func in _COPIES:
        on_gpu = there[0] if func is _aten.copy_.default else on_gpu
        _note_copy(tensors[-1], on_gpu, waits=not kwargs.get("non_blocking"))
    elif any(there):
        _check_sides(func, tensors)
        if func in _WAITS or (func in _INDEXING and any(t.dtype == torch.bool for t in tensors[1:])):
            GpuTensor.waits.append(str(func))
    if on_gpu and not func.is_view:
        GpuTensor.operations += 1
    done = func(*tree_map_only(GpuTensor, _inner, args), **tree_map_only(GpuTensor, _inner, kwargs))
    if not on_gpu:
        return done
    if torch.Tag.inplace_view in func.tags:  # the shape that torch sees must change as well
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
    known = {id(t.inner): t for t in tensors if isinstance(t, GpuTensor)}
    return tree_map_only(torch.Tensor, lambda t: known[id(t)] if id(t) in known else GpuTensor(t), done)


def _inner(tensor: GpuTensor) -> torch.Tensor:
    return tensor.inner


def _note_copy(source: torch.Tensor, to_gpu: bool, *, waits: bool) -> None:
    from_gpu = isinstance(source, GpuTensor)
    if from_gpu and not to_gpu:
        GpuTensor.waits.append("copy to the CPU")
    elif to_gpu and not from_gpu and waits and source.ndim > 0:
        GpuTensor.waits.append("copy to the GPU")


def _check_sides(func: Any, tensors: list[torch.Tensor]) -> None:
    """As on a real GPU, a single number may come from the CPU, and so may the positions in an indexing."""
    wrong = [t for t in tensors if not isinstance(t, GpuTensor) and t.ndim > 0]
    if wrong and not (func in _INDEXING and isinstance(tensors[0], GpuTensor)):
        raise RuntimeError(f"{func}: expected all tensors on one device, found {wrong[0].shape} on the CPU")


@contextlib.contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """This machine has a GPU, which all threads may use; yields the list of what was waited for."""
    if not torch.cuda.is_available():
        torch._C._ensureCUDADeviceGuardSet()
    answers = {
        "is_available": True,
        "device_count": 1,
        "mem_get_info": (1 << 30, 1 << 30),
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "is_initialized": False,
        "manual_seed": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "device": contextlib.nullcontext(),
        "_lazy_init": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda *_: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
    start = threading.Thread.run

    def with_gpu(thread: threading.Thread) -> None:
        with _Mode():
            start(thread)

    monkeypatch.setattr(threading.Thread, "run", with_gpu)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    GpuTensor.waits.clear()
    try:
        with _Mode():
            yield GpuTensor.waits
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
        monkeypatch.undo()
