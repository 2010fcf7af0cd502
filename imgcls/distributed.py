"""One process per GPU: the rank of this process, and the few collective operations of the ranks.

`torchrun` and Slurm's `srun` both work; without either there is one rank, and every function here costs nothing.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from imgcls.device import choose_device, set_num_threads
from imgcls.environment import launch, quiet_other_ranks
from imgcls.errors import EXIT_RUN_FAILED, ConfigError, RunError, is_reported, mark_reported

SECONDS_FOR_MAIN = 1.0  # in which rank 0 reports what all ranks find out
STORE_SECONDS = 5  # a lost rank's report waits for the store of the ranks


class LostRankError(RunError):
    """Another rank of this run has ended without a word."""


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return True on rank 0, which writes files and logs."""
    return rank() == 0


@contextmanager
def process_group(device: str, *, threads: int | None = None, timeout_minutes: float = 10) -> Iterator[torch.device]:
    """Join the other ranks, if there are any, and yield this rank's device.

    Args:
        device: auto, or the name of one. With several ranks a node, each takes the GPU of its local rank.
        threads: that compute on the CPU; None is one for each core that this process may use.
        timeout_minutes: a rank that keeps the others waiting for longer is lost.

    Raises:
        ValueError: there is no such device; Slurm gives no MASTER_ADDR.
    """
    place = launch()
    set_num_threads(threads)
    if place is None:
        yield choose_device(device, 0)
        return
    chosen, no_device = torch.device("cpu"), None
    try:
        chosen = _device_of_a_rank(device, place[2])
    except ValueError as error:
        no_device = error  # the others wait for this rank: it meets them, and says so
    if "MASTER_ADDR" not in os.environ:
        raise ValueError(
            "several Slurm tasks, but MASTER_ADDR is not set; in the job script: "
            'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500'
        )
    # gloo beside them: flags and strings of the hosts are exchanged without waiting for the GPUs.
    backend = {"cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}.get(chosen.type, "gloo")
    try:
        dist.init_process_group(
            backend,
            store=_store_of_this_attempt(place),
            rank=place[0],
            world_size=place[1],
            timeout=timedelta(minutes=timeout_minutes),
        )
    except (ValueError, RuntimeError) as error:  # of torch's store: a port in use, a host that is not there
        where = f"MASTER_ADDR={os.environ['MASTER_ADDR']} MASTER_PORT={os.environ.get('MASTER_PORT', 'not set')}"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{where}: the ranks cannot meet there ({reason}); use another port or host") from error
    quiet_other_ranks()
    try:
        check_errors(no_device)
        yield chosen
    except Exception as error:
        if not _is_lost_connection(error):
            # The others lose this rank now, and need not say so; nor what all of them find out.
            if not is_reported(error):
                time.sleep(0 if is_main() else SECONDS_FOR_MAIN)
                if not _first_to_report(without_store=is_main()):  # it ends with rank 0, which has said why
                    mark_reported(error)
            raise
        if not _first_to_report():
            raise SystemExit(EXIT_RUN_FAILED) from None
        waited = f" and waited for it for ranks.timeout_minutes={timeout_minutes:g}" if _says(error, _TIMEOUT) else ""
        raise LostRankError(
            f"rank {place[0]} has lost another rank{waited}: it was killed, often by the system for want of memory, or "
            "its machine or network failed; the same command, without overwrite=true, resumes from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def _device_of_a_rank(device: str, local_rank: int) -> torch.device:
    chosen = choose_device(device, local_rank)
    if chosen.type == "mps":
        raise ConfigError("device=mps: torch has no exchange of gradients between Apple GPUs; use one process")
    if chosen.type != "cpu":
        getattr(torch, chosen.type).set_device(chosen)
    return chosen


def _store_of_this_attempt(place: tuple[int, int, int]) -> Store:
    """Return the store through which the ranks meet, with separate keys for each restart by torchrun.

    torchrun (torch 2.11 to 2.15) keeps one store over its restarts, and the new ranks would find the addresses of the
    killed ones there: they fail to connect, or wait for ever.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, _, _ = next(rendezvous("env://", rank=place[0], world_size=place[1]))
    return PrefixStore(f"attempt {attempt}", store)


# gloo raises a plain RuntimeError, nccl a DistError.
_LOST = ("gloo", "closed by peer", "pair closure", "reset by peer", "broken pipe", "no route to host", "timed out")
_TIMEOUT = ("timed out", "timeout")


def _is_lost_connection(error: Exception) -> bool:
    if not isinstance(error, RuntimeError) or isinstance(error, RunError):
        return False
    return isinstance(error, dist.DistError) or _says(error, _LOST)


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def _first_to_report(*, without_store: bool = True) -> bool:
    """Return True on the first rank that asks, as the others have nothing to add; `without_store` if it has ended."""
    answers: list[int] = []

    def ask() -> None:
        with suppress(RuntimeError):  # the store was the lost rank's
            answers.append(dist.distributed_c10d._get_default_store().add("imgcls_lost_rank", 1))

    # In a thread: a store behind a cut network lets a rank wait for minutes.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(STORE_SECONDS)
    return answers == [1] if answers else without_store


def all_reduce_sum(values: Tensor) -> Tensor:
    """Add `values` up over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def agree(flag: int) -> int:
    """Return the largest `flag` of all ranks: a signal that reached one rank stops all of them at the same step."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(flag)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return int(flags)


def from_main(value: Any) -> Any:
    """Return rank 0's `value` on every rank; if it is an exception, raise it on every rank, for rank 0 to report."""
    if world_size() > 1:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        value = box[0]
    if isinstance(value, Exception):
        if not is_main():
            mark_reported(value)
        raise value
    return value


def gather(value: Any) -> list[Any] | None:
    """Return every rank's `value` on rank 0, in the order of the ranks, and None on the others."""
    if world_size() == 1:
        return [value]
    box: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, box, dst=0)
    return box


def check_errors(error: Exception | None) -> None:
    """Raise on every rank if one of them has an `error`: rank 0's own, or that of the first that has one.

    Raises:
        ConfigError: or a RunError, or what rank 0's error is.
    """
    kind = RunError if isinstance(error, RunError) else ConfigError
    errors = gather(None if error is None else (kind, str(error)))
    if errors is not None and error is None:
        error = next((each[0](f"rank {place}: {each[1]}") for place, each in enumerate(errors) if each), None)
    from_main(error)


def check_same(facts: dict[str, Any]) -> None:
    """Raise on every rank if the `facts` by name are not the same on all.

    Raises:
        ConfigError: with the first five names that differ, and the values on the ranks.
    """
    ranks = gather(facts)
    from_main(None if ranks is None else _difference(ranks))


def _difference(ranks: list[dict[str, Any]]) -> ConfigError | None:
    different = []
    for name in dict.fromkeys(name for facts in ranks for name in facts):
        places: dict[str, list[str]] = {}
        for place, facts in enumerate(ranks):
            places.setdefault(str(facts.get(name, "not set")), []).append(str(place))
        if len(places) > 1:
            shown = (f"{value} on rank{'s' * (len(on) > 1)} {', '.join(on)}" for value, on in places.items())
            different.append(f"{name}: {'; '.join(shown)}")
    if not different:
        return None
    more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
    return ConfigError(
        f"the ranks differ in {' | '.join(different[:5])}{more}; start all of them by the same command, "
        "with the same images and code"
    )


def broadcast_buffers(model: nn.Module) -> None:
    """Copy rank 0's batch-norm statistics to all ranks, so that all evaluate the same network."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
