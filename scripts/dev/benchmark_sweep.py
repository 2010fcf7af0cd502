"""`benchmark.py sweep` and `results`: what a sweep adds to its jobs, and the time to compare and report many runs.

Imports no torch: every command is timed in its own process.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent
JOB = ("model=lenet5", "max_steps=2", "batch_size=8", "data.memorise=16", "data.num_threads=1", "device=cpu")


def measure_sweep(asked: argparse.Namespace) -> None:
    """Print the seconds that a sweep adds to each job, beside those of the same runs started by hand.

    A sweep of one job is subtracted from one of several, so that the sweep's start does not count to a job; it is shown
    too. Sweeps and runs take turns.
    """
    jobs = asked.jobs
    with tempfile.TemporaryDirectory() as name:
        _run(["train.py", *JOB], Path(name))  # writes bytecode and draws the set
    rows = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            alone = [_run(["train.py", *JOB, f"seed={seed}", f"name=alone-{seed}"], folder) for seed in range(3)]
            one = _run(["train.py", "-m", *JOB, "seed=0", "sweep.name=one", "+name=one"], folder)
            several = _run(["train.py", "-m", *JOB, f"seed=range(0,{jobs + 1})", "sweep.name=several"], folder)
        each = (several - one) / jobs
        rows.append((statistics.median(alone), one, each))
    alone, one, each = (statistics.median(column) for column in zip(*rows, strict=True))
    added = [job - run for run, _, job in rows]
    print(f"seconds, medians of {asked.rounds} rounds")
    print(f"a run alone                  {alone:6.2f}")
    print(f"a job of a sweep of {jobs + 1:<2}       {each:6.2f}")
    print(f"added to a job by the sweep  {statistics.median(added):6.2f}  ({min(added):.2f} to {max(added):.2f})")
    print(f"the sweep's start            {one - each:6.2f}")


def measure_results(asked: argparse.Namespace) -> None:
    """Print the seconds of compare.py on many runs, in each format, and of report.py on a tenth of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = folder / "trained"
        _run(["train.py", *JOB[:1], *JOB[2:], "epochs=10", f"hydra.run.dir={trained}"], folder)
        for file in trained.rglob("*.pt"):
            file.unlink()
        for number in range(asked.runs):
            _copy_run(trained, folder / "runs" / f"{number:04}", number)
            if number < asked.runs // 10:
                _copy_run(trained, folder / "few" / f"{number:04}", number)
        commands = {
            f"compare.py, {asked.runs} runs, {form}": ["scripts/compare.py", "runs", "--format", form]
            for form in ("text", "csv", "markdown", "json")
        }
        commands[f"report.py, {asked.runs // 10} runs"] = ["scripts/report.py", "few"]
        print(f"seconds, medians of {asked.rounds} rounds{'':<10}wall     CPU")
        seconds = {command: [] for command in commands}
        for _ in range(asked.rounds):
            for command, words in commands.items():
                before = os.times()
                wall = _run(words, folder)
                after = os.times()
                cpu = after.children_user + after.children_system - before.children_user - before.children_system
                seconds[command].append((wall, cpu))
        for command, turns in seconds.items():
            wall, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
            print(f"{command:<36} {wall:8.2f}{cpu:8.2f}", flush=True)


def _copy_run(trained: Path, target: Path, number: int) -> None:
    """Copy a run as another one: five seeds of each learning rate, and another score."""
    shutil.copytree(trained, target)
    config = json.loads((target / "config.json").read_text())
    config["seed"] = number % 5
    config["optimizer.lr"] = 0.01 * (1 + number // 5)
    (target / "config.json").write_text(json.dumps(config))
    results = json.loads((target / "results.json").read_text())
    results["val_top1"] = 50 + number % 37
    (target / "results.json").write_text(json.dumps(results))


def _run(words: list[str], folder: Path) -> float:
    """Run a command in `folder` and return its seconds."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{' '.join(words)} fails:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started
