"""The state at the end of the last whole step, which a run that runs out of memory in the next one still saves."""

import torch
from torch import Tensor, nn


class LastStep:
    """Whether the state of a run is that of a step's end, or can be brought back to it.

    A forward pass changes the buffers of a network, as the statistics of batch norm, and they are kept. The weights and
    the optimizer's state are too large to be kept: once a step changes them there is no way back.

    Args:
        network: the one that trains.
    """

    def __init__(self, network: nn.Module) -> None:
        self._buffers: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            self._buffers.setdefault(buffer.dtype, []).append(buffer.detach())
        self._kept: dict[torch.dtype, list[Tensor]] = {}
        self._is_whole = True
        self._is_moving = False
        self.may_repeat = True  # the step that is being taken: no rank waits in an exchange of its gradients
        self.saved: int | None = None  # the step after which the run was saved because it ran out of memory

    def move_buffers(self) -> None:
        """Keep the buffers as they are: a forward pass is about to change them."""
        if not self._kept:
            self._kept = {dtype: [torch.empty_like(each) for each in self._buffers[dtype]] for dtype in self._buffers}
        _copy(self._buffers, self._kept)
        self._is_moving = self.may_repeat = True

    def exchange(self) -> None:
        """Note that ranks exchange the gradients of this step from here on."""
        self.may_repeat = False

    def leave(self) -> None:
        """Note that from here on there is no way back, until the end of a step is reached."""
        self._is_whole = False

    def reach(self) -> None:
        """Note that a step, or what else changes the state, has ended."""
        self._is_whole, self._is_moving = True, False

    def restore(self) -> bool:
        """Bring the state back to that of the last step's end; return False if it cannot be."""
        if self._is_whole and self._is_moving:
            _copy(self._kept, self._buffers)
            self._is_moving = False
        return self._is_whole


def _copy(tensors: dict[torch.dtype, list[Tensor]], to: dict[torch.dtype, list[Tensor]]) -> None:
    for dtype, each in tensors.items():  # one kernel for each
        torch._foreach_copy_(to[dtype], each)  # pyright: ignore[reportPrivateImportUsage]
