"""How the ranks agree to save or to stop at the same step, without waiting for each other in every step."""

import torch
import torch.distributed as dist

from imgcls import distributed


class Agreement:
    """The largest flag of all ranks, one question late: each question is answered when the next one is asked.

    With one rank the answer is at once. With several, the flags travel while the next step is computed: waiting for
    them in the same step would let every rank wait for the slowest, a hundred times a second on a small network. All
    ranks ask the same number of times, so all of them get an answer at the same step.
    """

    def __init__(self) -> None:
        self._flag: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def answer(self) -> int:
        """Return the largest flag of the last question, and 0 if nothing was asked or the answer was taken already."""
        if self._flag is None:
            return 0
        if self._work is not None:
            self._work.wait()
        flag, self._flag, self._work = int(self._flag), None, None
        return flag

    def ask(self, flag: int) -> None:
        """Ask all ranks; each gives its own `flag`."""
        # On the host, where gloo exchanges it: nothing waits for the GPUs.
        self._flag = torch.tensor(flag)
        if distributed.world_size() > 1:
            self._work = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, async_op=True)
