"""Two ranks that exchange gradients in each of the ways that there are end with the same weights."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imgcls.config import Config
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


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
def test_sharded_weights_and_each_exchange_of_gradients_give_what_ddp_gives(tiny_folder: Path, tmp_path: Path) -> None:
    # lr is small and there is no batch norm over a few images, which would make float noise grow.
    words = ["model=lenet5", "model.activation=relu", "image_size=32", "optimizer.lr=0.02", "ema_decay=0.9"]
    words += ["clip_grad_norm=1", "microbatch=4"]
    script = str(Path(__file__).with_name("two_ranks.py"))
    command = [*TORCHRUN, script, str(tiny_folder), str(tmp_path), *words]
    done = subprocess.run(command, cwd=CONF_DIR.parent, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("figures "))
    figures = json.loads(line.removeprefix("figures "))
    assert figures["answers"] == [[0, 0, 3, 0]] * 2  # one question late, on both
    assert 0.45 < figures["share"] < 0.55  # of the weights, on one rank of two
    assert figures["resumed out"] == figures["resumed in"] == 3
    for name in ("sharded", "out", "in", "small buckets", "static graph"):
        assert figures[name] < 1e-6, name
    assert 0 < figures["bf16"] < 1e-3
