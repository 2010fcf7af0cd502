"""`benchmark.py optimizer`: the optimizer's step compiled, as by compile=true, against torch's fused one."""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence

import torch
from benchmark_report import machine
from torch.optim import Optimizer

from imgcls.config import Config, compose
from imgcls.device import choose_device
from imgcls.models import build_model
from imgcls.training import build_optimizer, set_lr

DROPS = 3  # of lr, each to a tenth


def measure_optimizer(asked: argparse.Namespace) -> None:
    """Print the time of both steps, which take turns, of the first one that is compiled, and the compilations."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # an empty cache
        fused, compiled = (_optimizer(compose([*asked.overrides, f"compile={word}"])) for word in ("false", "true"))
        _step(compiled)
        compiling = _step(compiled)
        seconds: list[tuple[float, float]] = []
        _step(fused)
        for drop in range(DROPS + 1):
            for optimizer in (fused, compiled):
                set_lr(optimizer, 0.1**drop)
            for _ in range(asked.steps):
                seconds.append((_step(fused), _step(compiled)))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    ratios = [ours / fused for fused, ours in seconds]
    medians = [1e3 * statistics.median(times) for times in zip(*seconds, strict=True)]
    print(f"{machine()}\n{' '.join(asked.overrides)}: {type(fused).__name__}, {len(seconds)} steps of each in turns")
    print(
        f"fused {medians[0]:.3f} ms, compiled {medians[1]:.3f} ms: {statistics.median(ratios):.2f} times, quartiles "
        f"{' and '.join(f'{each:.2f}' for each in _quartiles(ratios))}"
    )
    print(f"compiled in {compiling:.1f} s with an empty cache; {graphs} compilation(s) over {DROPS} drops of lr")


def _optimizer(config: Config) -> Optimizer:
    torch.manual_seed(0)
    device = choose_device(config.device, 0)
    return build_optimizer(config, build_model(config, num_classes=config.data.num_classes or 10).to(device))


def _step(optimizer: Optimizer) -> float:
    """Take a step on new gradients; return its seconds."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    _settle(parameters[0].device)
    started = time.perf_counter()
    optimizer.step()
    _settle(parameters[0].device)
    return time.perf_counter() - started


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4)
    return low, high
