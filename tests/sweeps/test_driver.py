"""Jobs of a sweep run in separate processes: skipped, retried, stopped, given their share of cores and GPUs."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgcls.config import Config, Sweep
from imgcls.config.command_line import plain_words
from imgcls.config.compose import register
from imgcls.config.sweep import read_sweep
from imgcls.sweeps.directory import SweepDirectory
from imgcls.sweeps.driver import Grid, conclude, drive
from imgcls.sweeps.outcome import Follower, finished
from imgcls.sweeps.processes import visible_gpus

FAKE = [sys.executable, "-S", str(Path(__file__).with_name("fake_train.py"))]


@pytest.fixture
def sweep_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """Read a sweep of LeNet-5 in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read(*words: str) -> Sweep:
        register()
        return read_sweep(plain_words(["-m", "model=lenet5", "sweep.name=s", *words], Config))

    return read


def run(sweep: Sweep, *, slots: int = 1, fail_fast: bool = False) -> int:
    with SweepDirectory(sweep) as directory:
        directory.begin(sweep.jobs)
        stopped = drive(Grid(sweep.jobs), directory, slots=slots, fail_fast=fail_fast, program=FAKE)
        return conclude(directory, stopped)


def states() -> list[str]:
    return [row["state"] for row in csv.DictReader(Path("sweeps/s/jobs.csv").open())]


@pytest.fixture(autouse=True)
def _runs_are_of_their_config(monkeypatch: pytest.MonkeyPatch) -> None:
    # The stand-in writes no config that could be compared.
    monkeypatch.setattr("imgcls.sweeps.outcome.look_up_run", lambda config, path: (config, _results(path), None))


def _results(path: Path) -> dict[str, object]:
    return json.loads((path / "results.json").read_text())


def test_a_failing_job_is_named_at_once_and_at_the_end_and_the_others_run(
    sweep_of: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of("seed=8,1")
    assert run(sweep) == 1
    lines = capsys.readouterr().out.splitlines()
    failure = "job 1 of 2 (seed=8): failed: the optimizer is wrong (log: sweeps/s/logs/1.log)"
    assert lines.index(failure) < lines.index("job 2 of 2 (seed=1): started")
    assert f"  {failure}" in lines[-3:]
    assert states() == ["failed", "finished"]
    assert sorted(file.name for file in Path("sweeps/s").iterdir()) == [
        "command.txt",
        "jobs.csv",
        "lock",
        "logs",
        "multirun.yaml",
        "table.txt",
    ]
    assert sorted(file.name for file in Path().iterdir()) == ["runs", "sweeps"]


def test_the_same_sweep_again_skips_what_is_done_and_retries_what_failed(
    sweep_of: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    run(sweep_of("seed=8,1"))
    told = Path("runs/lenet5-digits/seed-1/told.json")
    written = told.stat().st_mtime_ns
    capsys.readouterr()
    assert run(sweep_of("seed=8,1")) == 0
    assert "job 2 of 2 (seed=1): this run has finished before" in capsys.readouterr().out
    assert told.stat().st_mtime_ns == written
    assert states() == ["finished", "finished"]


def test_a_crash_ends_one_job_and_is_named(sweep_of: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(sweep_of("seed=7,1")) == 1
    assert "(seed=7): failed: killed by SIGSEGV; its last line: half a line" in capsys.readouterr().out
    assert "SIGSEGV" in Path("runs/lenet5-digits/seed-7/failure.txt").read_text()
    assert states() == ["failed", "finished"]


def test_fail_fast_starts_no_job_after_one_has_failed(sweep_of: Callable[..., Sweep]) -> None:
    assert run(sweep_of("seed=8,1"), fail_fast=True) == 1
    assert states() == ["failed", "waiting"]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_a_signal_stops_all_jobs_saved_and_the_same_command_goes_on(
    number: int, code: int, sweep_of: Callable[..., Sweep], request: pytest.FixtureRequest
) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # `nohup pytest` ignores SIGHUP, and a sweep then ignores it too
    request.addfinalizer(lambda: signal.signal(number, before))
    sweep = sweep_of("seed=9,1")
    log = Path("sweeps/s/logs/1.log").absolute()

    def interrupt() -> None:
        while not log.exists() or "ready" not in log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run(sweep) == code
    thread.join()
    assert log.read_text() == "ready\nsaved\n"
    assert states() == ["stopped", "waiting"]
    assert run(sweep_of("seed=9,1")) == 0
    assert states() == ["finished", "finished"]


def test_jobs_at_a_time_share_the_cores_and_have_a_gpu_each(
    sweep_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("imgcls.sweeps.processes.default_num_threads", lambda: 7)
    run(sweep_of("seed=1,2"), slots=2)
    told = [json.loads(Path(f"runs/lenet5-digits/seed-{seed}/told.json").read_text()) for seed in (1, 2)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in told] == ["4", "6"]
    assert {each["OMP_NUM_THREADS"] for each in told} == {each["num_threads"] for each in told} == {"3"}


def test_one_job_at_a_time_keeps_all_cores_and_gpus(
    sweep_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    run(sweep_of("seed=1"))
    told = json.loads(Path("runs/lenet5-digits/seed-1/told.json").read_text())
    assert (told["CUDA_VISIBLE_DEVICES"], told["num_threads"]) == ("4,6", None)


def test_the_gpus_of_a_machine_are_those_that_its_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_two_sweeps_of_one_name_are_refused_and_a_longer_one_is_not(sweep_of: Callable[..., Sweep]) -> None:
    run(sweep_of("seed=1,2"))
    with pytest.raises(ValueError, match=r"sweep\.name=s: sweeps/s holds another sweep, with the run .*seed-1"):
        run(sweep_of("seed=2,3"))
    assert run(sweep_of("seed=1,2,3")) == 0
    assert states() == ["finished"] * 3


def test_a_sweep_that_runs_is_not_started_twice(sweep_of: Callable[..., Sweep]) -> None:
    sweep = sweep_of("seed=1,2")
    with SweepDirectory(sweep), pytest.raises(ValueError, match="another process runs this sweep"):
        SweepDirectory(sweep)


def test_a_finished_run_below_the_least_top1_has_failed_without_a_new_start(sweep_of: Callable[..., Sweep]) -> None:
    run(sweep_of("seed=1"))
    (job,) = sweep_of("seed=1", "min_val_top1=60").jobs
    outcome = finished(job)
    assert outcome is not None
    assert (outcome.state, outcome.error) == ("failed", "best validation top-1 is 51.00 %, below min_val_top1=60")


def test_a_running_job_is_followed_by_its_metrics(sweep_of: Callable[..., Sweep]) -> None:
    (job,) = sweep_of("seed=1", "epochs=4").jobs
    job.path.mkdir(parents=True)
    follower = Follower(job)
    assert not follower.look()
    file = job.path / "metrics.csv"
    file.write_text("epoch,step,lr,val/top1\n1,2,0.1,\n1,5,0.1,40.0\n2,10,0.1,30.0\n")
    assert follower.look()
    assert (follower.values, follower.top1, follower.share) == ([40.0, 30.0], 40.0, 0.5)
    file.write_text(file.read_text() + "3,15")
    assert not follower.look()
    assert follower.share == 0.5


def test_the_time_left_is_that_of_the_epochs_since_the_job_started(
    sweep_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = sweep_of("seed=1", "epochs=4").jobs
    job.path.mkdir(parents=True)
    now = 100.0
    monkeypatch.setattr("imgcls.sweeps.outcome.time.monotonic", lambda: now)
    follower = Follower(job)
    lines = ["epoch,step,lr,val/top1", *(f"{epoch},{5 * epoch},0.1,40.0" for epoch in (1, 2, 3))]
    (job.path / "metrics.csv").write_text("\n".join(lines[:2]) + "\n")  # an epoch that was trained before
    follower.look()
    assert follower.seconds_left is None
    now = 130.0
    (job.path / "metrics.csv").write_text("\n".join(lines) + "\n")
    follower.look()
    assert follower.seconds_left == 15
    now = 140.0
    assert follower.seconds_left == 5


def test_the_parent_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, imgcls.sweeps, imgcls.sweeps.search, imgcls.sweeps.launchers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
