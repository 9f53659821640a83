"""A GPU that is not there: fake tensors on a device of their own, which refuse to meet others."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grownas.cells import sequence

GPU = "meta"  # a build of PyTorch without CUDA has no other device that autograd knows and that is not the CPU
aten = torch.ops.aten
MIXING = {aten.copy_, aten.index, aten.index_put, aten.index_put_}  # indices of a GPU's tensor may lie on the CPU


class OneMode(FakeTensorMode):
    """Copies of its tensors are its own, too."""

    def __deepcopy__(self, memo):
        return self


class Answers(TorchDispatchMode):
    """Answers what depends on the values of fake tensors: each is 1, nothing is nan, and a mask takes nothing.

    Refuses tensors of two devices where a GPU would, which `FakeTensorMode` overlooks in embeddings, and a generator
    of another device.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in tensors if one.dim()}
        if len(devices) > 1 and func.overloadpacket not in MIXING:
            raise RuntimeError(f"{func}: expected all tensors on the same device, found two devices: {devices}")
        generator = kwargs.get("generator")
        if generator is not None:
            target = args[0].device if args and isinstance(args[0], Tensor) else kwargs.get("device")
            if torch.device(target or "cpu").type != generator.device.type:
                raise RuntimeError(f"Expected a {target} device type for generator but found {generator.device.type}")
        if func is aten._local_scalar_dense.default:
            value = getattr(args[0], "value", 1)
            return np.full((), value, str(args[0].dtype).removeprefix("torch.")).item()
        if func is aten.any.default:
            answer = func(*args, **kwargs)
            answer.value = False
            return answer
        if func is aten.equal.default:
            return (args[0] == args[1]) is not None
        if func is aten.bincount.default:
            return args[0].new_ones(kwargs.get("minlength") or args[-1])
        if func is aten.nonzero.default:
            return args[0].new_zeros((args[0].numel(), args[0].dim()), dtype=torch.long)
        if func is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype is torch.bool:
            return args[0].new_zeros((0, *args[0].shape[args[1][0].dim() :]))
        return func(*args, **kwargs)


class PlainValues(TorchFunctionMode):
    """Makes fake tensors of plain values, and gives NumPy ones, only from the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.numpy:
            if args[0].device.type != "cpu":
                raise TypeError(f"can't convert {args[0].device} device type tensor to numpy. Use Tensor.cpu()")
            return np.ones(args[0].shape, str(args[0].dtype).removeprefix("torch."))
        if func is torch.tensor and kwargs.get("device") is not None:  # one made there would be real
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func is torch.from_numpy:
            return torch.ones(args[0].shape, dtype=getattr(torch, str(args[0].dtype)))
        return func(*args, **kwargs)


def as_list(tensor):
    """Read a fake tensor as a list: floats as shares that sum to 1, whole numbers in order."""
    shape = tensor.shape
    if tensor.is_floating_point():
        return np.full(shape, 1 / (shape[-1] if shape else 1)).tolist()
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).tolist()


def moved(module: nn.Module, fn, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` for fake tensors, whose device cannot be changed in place."""
    for child in module.children():
        child._apply(fn)
    for name, one in module._parameters.items():
        if one is not None:
            module._parameters[name] = nn.Parameter(fn(one.detach()), one.requires_grad)
    for name, one in module._buffers.items():
        if one is not None:
            module._buffers[name] = fn(one)
    return module


@pytest.fixture
def fake_gpu(monkeypatch) -> Iterator[str]:
    """The name of a device on which tensors have shapes but no values, which meet no others.

    All tensors that a test makes are such, also on the CPU: what is read of them is 1.
    """
    monkeypatch.setattr(nn.Module, "_apply", moved)
    monkeypatch.setattr(FakeTensor, "tolist", as_list)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    adam = sys.modules["torch.optim.adam"]  # as a name of `torch.optim` it is deleted
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *args, **kwargs: None)
    sequence._indices.cache_clear()
    with OneMode(allow_non_fake_inputs=True), Answers(), PlainValues():
        yield GPU
    sequence._indices.cache_clear()
