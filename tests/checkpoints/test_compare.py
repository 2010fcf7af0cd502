"""The comparison of two runs: it sees what differs, and only that."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgcls.checkpoints import compare_runs, load_checkpoint, save_checkpoint, verdict_table
from imgcls.config import Config
from imgcls.environment import CONF_DIR

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]


def different(one: Path, other: Path) -> dict[str, list[str]]:
    return {part: differences for part, _, differences in compare_runs(one, other) if differences}


def test_every_part_that_differs_is_named(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    config = tiny_config("epochs=1", "logger=tensorboard")
    train(config, "one")
    train(config, "other")
    one, other = tmp_path / "one", tmp_path / "other"
    assert different(one, other) == {}

    saved = load_checkpoint(other / "last.pt")
    saved["optimizer"]["state"][3]["momentum_buffer"].view(-1)[0] += 1e-7
    saved["state"]["step"] = 6
    save_checkpoint(saved, other / "last.pt")
    with (other / "metrics.csv").open("a") as file:
        file.write("1,5,0.1,,,,,,\n")
    assert different(one, other) == {
        "optimizer": ["state.3.momentum_buffer"],
        "state": ["step"],
        "metrics.csv": ["4 and 5 lines"],
    }
    (other / "best.pt").unlink()
    assert different(one, other)["best.pt"] == ["all of it"]
    assert "optimizer    29 values  DIFFERENT: state.3.momentum_buffer" in verdict_table(compare_runs(one, other))


def test_another_seed_is_another_run(tiny_config: Make, train: Train, tmp_path: Path) -> None:
    train(tiny_config("epochs=1"), "one")
    train(tiny_config("epochs=1", "seed=1"), "other")
    assert {"model", "optimizer", "metrics.csv"} <= different(tmp_path / "one", tmp_path / "other").keys()


SCRIPT = str(CONF_DIR.parent / "scripts/dev/verify_resume.py")
RUN = ["model=lenet5", "model.activation=relu", "data=folder", "image_size=32", "batch_size=12", "logger=none"]


@pytest.mark.slow
def test_verify_resume_proves_it_for_any_run(tiny_folder: Path, tmp_path: Path) -> None:
    overrides = [*RUN, f"data.root={tiny_folder}", "ema_decay=0.9"]
    command = [sys.executable, SCRIPT, "4", "3", *overrides, "--folder", str(tmp_path / "proof")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the stopped run IS the unbroken run" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 2
    assert "is not empty; name a new one" in again.stderr


@pytest.mark.slow
def test_verify_resume_says_so_where_the_run_cannot_be_stopped_or_started(tiny_folder: Path) -> None:
    for numbers, overrides, words in (
        (["40", "3"], [f"data.root={tiny_folder}", "epochs=1"], "the run has fewer steps than that?"),
        (["4", "3"], ["data.root=nowhere"], "nowhere"),
        (["0", "3"], [], "N=0 and M=3 must be at least 1"),
    ):
        command = [sys.executable, SCRIPT, *numbers, *RUN, *overrides]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert words in done.stderr
