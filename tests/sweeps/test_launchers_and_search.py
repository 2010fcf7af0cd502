"""Sweeps by the real plugins of Hydra and by the real Optuna, each with jobs that train."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.environment import CONF_DIR

pytestmark = pytest.mark.e2e


@pytest.fixture
def tiny(tiny_folder: Path) -> list[str]:
    scale = ["image_size=32", "batch_size=12", "epochs=2", "data.num_threads=1", "logger=none", "sweep.name=s"]
    return ["-m", "model=lenet5", "model.activation=relu", "data=folder", f"data.root={tiny_folder}", *scale]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONF_DIR.parent / "train.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def states(folder: Path) -> list[str]:
    return [row["state"] for row in csv.DictReader((folder / "sweeps/s/jobs.csv").open())]


@pytest.mark.parametrize(
    "package, words",
    [
        ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
    ],
)
def test_a_launcher_gives_the_outcomes_table_and_exit_code_of_any_sweep(
    package: str, words: list[str], tiny: list[str], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    done = run(*tiny, "optimizer.momentum=-1,0.9", *words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert states(tmp_path) == ["failed", "finished"]
    assert "job 1 of 2 (optimizer.momentum=-1): failed: optimizer: Invalid momentum value: -1" in done.stdout
    assert "failed: 1 of 2 jobs" in done.stdout
    assert (tmp_path / "sweeps/s/table.txt").read_text() in done.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runs", "sweeps"]
    again = run(*tiny, "optimizer.momentum=-1,0.9", cwd=tmp_path)  # without the launcher it is the same sweep
    assert "job 2 of 2 (optimizer.momentum=0.9): this run has finished before" in again.stdout


def test_a_search_finds_the_best_run_and_the_same_command_knows_its_trials(tiny: list[str], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = ["hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(0.001,0.1))", "optimizer.momentum=choice(0.9,-1)"]
    done = run(*tiny, *search, "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    first = states(tmp_path)
    assert len(first) == 3
    assert set(first) <= {"finished", "failed"}
    rows = list(csv.DictReader((tmp_path / "sweeps/s/jobs.csv").open()))
    assert done.returncode == int("failed" in first)
    assert all(("-1" in row["words"]) == (row["state"] == "failed") for row in rows)
    best = max(float(row["value"]) for row in rows if row["value"])
    assert f"best val/top1: {best:.4g}" in done.stdout

    again = run(*tiny, *search, "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=3", cwd=tmp_path)
    assert again.stdout.count(": started") == first.count("failed")
    assert f"best val/top1: {best:.4g}" in again.stdout
    other = run(*tiny, *search[:2], "optimizer.momentum=choice(0.8,0.5)", cwd=tmp_path)
    assert other.returncode == 2
    assert "searched with another space" in other.stderr
