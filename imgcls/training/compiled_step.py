"""The optimizer's step compiled by torch.compile, with lr as a tensor: a number would be a part of the code."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.optim import Optimizer

from imgcls.training.optim import is_of_torch, without_dynamo

# torch.compile makes few kernels of foreach. capturable keeps a tensor of Adam's number of steps, which its bias
# correction computes with.
SETTINGS = {"foreach": True, "capturable": True}


def with_compiled_step(kind: type[Optimizer]) -> type[Optimizer]:
    """Return an optimizer of torch's as a subclass whose step is compiled; those from elsewhere as they are.

    It is for steps that are not fused: torch's fused ones are as fast, and need no minutes of compiling.

    Outside of the compiled code it is the optimizer that it is without: lr is a Python number, so that checkpoints are
    the same. For the time of a step lr is a tensor on the device, which is filled without waiting.

    The first step of a parameter, which makes its state, stays torch's own: the code for it would be compiled for one
    step. So SGD without momentum, which keeps no state, is never compiled; its step is a single sum.
    """
    if not is_of_torch(kind):
        return kind
    base: Any = without_dynamo(kind)

    class WithCompiledStep(base):
        compiles = True

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            if closure is not None or not self.compiles or not _has_state(self):
                return super().step(closure)
            if self._compiled_step is None:
                self._compiled_step = torch.compile(MethodType(_copied(inspect.unwrap(kind.step)), self), dynamic=False)
            with torch.no_grad(), _settings_of_compiled_step(self):
                return self._compiled_step()

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            # It knows the tensors of the state that was loaded before.
            self._compiled_step: Callable[[], Any] | None = None

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self._compiled_step = None
            super().__init__(*arguments, **settings)

    WithCompiledStep.__name__ = kind.__name__
    return WithCompiledStep


@contextmanager
def step_uncompiled(optimizer: Any) -> Iterator[None]:
    """Within this context the optimizer's step is torch's own: the state is replaced too often to compile for it."""
    optimizer.compiles = False
    try:
        yield
    finally:
        optimizer.compiles = True


def _has_state(optimizer: Optimizer) -> bool:
    """Return True if every parameter that learns has made a step."""
    state = optimizer.state
    return all(each in state for group in optimizer.param_groups for each in group["params"] if each.grad is not None)


@contextmanager
def _settings_of_compiled_step(optimizer: Optimizer) -> Iterator[None]:
    groups = optimizer.param_groups
    outside = [{key: group[key] for key in ("lr", *SETTINGS) if key in group} for group in groups]
    for group, own in zip(groups, outside, strict=True):
        group.update((key, value) for key, value in SETTINGS.items() if key in own)
        like = group["params"][0]
        group["lr"] = torch.full(
            (), own["lr"], dtype=torch.promote_types(like.dtype, torch.float32), device=like.device
        )
    try:
        yield
    finally:
        for group, own in zip(groups, outside, strict=True):
            group.update(own)


def _copied(function: Any) -> Any:
    """Return a function with a copy of the code: torch counts what it compiles by the code, and allows eight."""
    code, names = function.__code__.replace(), function.__globals__
    return FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
