"""Ranks end with the weights of one process, and of each other's way of exchanging gradients."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgcls.config import Config
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def figures_of(script: str, *words: str, ranks: int) -> dict[str, Any]:
    """Start a script of this folder by torchrun, and return what its first process prints."""
    command = [*TORCHRUN, f"--nproc-per-node={ranks}", str(Path(__file__).with_name(script)), *words]
    done = subprocess.run(command, cwd=CONF_DIR.parent, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("figures "))
    return json.loads(line.removeprefix("figures "))


def metrics(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "words, match",
    [
        (["microbatch=auto"], "sharding=full does not go with microbatch=auto; give a number of images"),
        (["precision=fp16"], "sharding=full does not go with precision=fp16; use precision=bf16 or fp32"),
        (["compile=true"], "sharding=full does not go with compile=true; add compile_mode=blocks"),
        (["ranks.static_graph=true"], "sharding=full does not go with ranks.static_graph=true; leave it out"),
        (
            ["sharding=none", "ranks.static_graph=true", "microbatch=2"],
            "does not go with microbatch=2: torch",
        ),
    ],
)
def test_what_ranks_cannot_do_together_is_refused(
    words: list[str], match: str, tiny_config: Callable[..., Config]
) -> None:
    with pytest.raises(ConfigError, match=match):
        tiny_config("sharding=full", *words)


@pytest.mark.e2e
def test_two_ranks_give_what_ddp_gives_in_each_way_and_out_of_memory(tiny_folder: Path, tmp_path: Path) -> None:
    # lr is small and there is no batch norm over a few images, which would make float noise grow.
    words = ["model=lenet5", "model.activation=relu", "image_size=32", "optimizer.lr=0.02", "ema_decay=0.9"]
    words += ["clip_grad_norm=1", "microbatch=4"]
    figures = figures_of("two_ranks.py", str(tiny_folder), str(tmp_path), *words, ranks=2)
    assert figures["answers"] == [[0, 0, 3, 0]] * 2  # one question late, on both
    assert 0.45 < figures["share"] < 0.55  # of the weights, on one rank of two
    assert figures["resumed out"] == figures["resumed in"] == 3
    for name in ("sharded", "out", "in", "small buckets", "static graph"):
        assert figures[name] < 1e-6, name
    assert 0 < figures["bf16"] < 1e-3
    # One rank runs out of memory: it finishes what the others wait for, all save a step later, and a new run goes on.
    for where, step in (("training", 5), ("validation", 5)):
        one, other = figures[f"{where} ended"]
        assert one == other
        assert one.startswith("RunError: rank 1: out of memory on cpu: batch_size=12, 6 images on this device, 6 at a")
        assert f"The run is saved after step {step}: the same command goes on from there" in one
        assert figures[f"{where} resumed at"] == step
        assert figures[where] < 1e-6


@pytest.mark.e2e
@pytest.mark.parametrize("most", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_take_the_steps_of_one_process_on_the_same_images_in_the_same_order(
    most: int, tiny_folder: Path, tmp_path: Path
) -> None:
    figures = figures_of("equal_ranks.py", str(tiny_folder), str(tmp_path), ranks=most)
    counts = [str(count) for count in range(2, most + 1)]
    assert figures["steps"] == 20
    assert figures["same_order"] == list(range(1, most + 1))
    for count in counts:
        assert figures["float32"][count] < 1e-6
        assert figures["float64"][count] < 1e-8  # where all but the loss is: the difference is rounding
        for one, of_ranks in zip(metrics(tmp_path / "1"), metrics(tmp_path / count), strict=True):
            assert one.keys() == of_ranks.keys()
            numbers = {key: [float(row[key]) for row in (one, of_ranks) if row[key]] for key in one}
            for key, pair in numbers.items():
                assert pair[:1] == pytest.approx(pair[1:], rel=1e-4), key
    # ResNet-18, five steps, batch norm over six images: DDP with the optimizer and memory format of sharding=full.
    assert figures["sharded"] == 0
