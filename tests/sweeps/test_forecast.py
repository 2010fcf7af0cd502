"""A sweep says how long it takes: by finished runs before it starts, or by the first steps of a job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgcls.config import Config, Sweep
from imgcls.config.command_line import plain_words
from imgcls.config.compose import register
from imgcls.config.sweep import read_sweep
from imgcls.runs import estimate_text, read_estimate
from imgcls.sweeps.display import Display
from imgcls.sweeps.forecast import forecast


@pytest.fixture
def sweep_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """Read a sweep of LeNet-5 in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read(*words: str) -> Sweep:
        register()
        return read_sweep(plain_words(["-m", "model=lenet5", *words], Config))

    return read


def write_run(name: str, *, seconds: float, epochs: int = 10, image_size: int = 32) -> None:
    path = Path("runs/lenet5-digits") / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"image_size": image_size}))
    numbers = {"val_top1": 50.0, "best_epoch": 1, "epochs": epochs, "steps": 100, "seconds": seconds}
    (path / "results.json").write_text(json.dumps(numbers))


def test_finished_runs_of_the_model_and_data_tell_by_epochs_and_pixels(sweep_of: Callable[..., Sweep]) -> None:
    jobs = sweep_of("seed=1,2", "epochs=5").jobs
    assert forecast(jobs, 1) is None
    write_run("a", seconds=100)
    write_run("large", seconds=4000, image_size=64)  # there is one with the jobs' size
    assert forecast(jobs, 1) == "time: about 1:40, by 2 finished runs of the same model and data"
    assert str(forecast(jobs, 2)).startswith("time: about 0:50,")
    large = sweep_of("seed=1,2", "epochs=10", "image_size=128").jobs
    assert str(forecast(large, 2)).startswith("time: about 2:26:40,")  # the median of 1,600 and 16,000 s
    few = sweep_of("seed=1", "max_steps=10").jobs
    assert str(forecast(few, 1)).startswith("time: about 0:10,")
    (Path("runs/lenet5-digits/a/results.json")).write_text("{")  # a damaged run is no reason to stop
    assert forecast(jobs, 1) is not None


@pytest.mark.parametrize("seconds, resumed", [(59.6, False), (3723.0, True), (360_000.0, False)])
def test_what_a_run_says_of_its_time_is_read_again(seconds: float, resumed: bool, tmp_path: Path) -> None:
    text = estimate_text(seconds, steps=20, seconds_a_step=0.1234, resumed=resumed, max_hours=1)
    assert "by its first 20 steps of 0.123 s" in text
    assert ("max_hours=1 saves and stops it before" in text) == (seconds > 3600)
    log = tmp_path / "1.log"
    log.write_text(f"device   cpu\n{text}\nepoch 1/3\n")
    assert read_estimate(log) == round(seconds)
    assert read_estimate(log, log.stat().st_size) is None
    assert read_estimate(tmp_path / "none") is None


class _Running:
    """A job that has said what it takes."""

    def __init__(self, job: Any, seconds: float | None) -> None:
        self.job, self._seconds = job, seconds

    def estimate(self) -> float | None:
        return self._seconds


def test_the_first_steps_of_a_job_tell_once(sweep_of: Callable[..., Sweep], capsys: pytest.CaptureFixture[str]) -> None:
    job = sweep_of("seed=1,2,3,4").jobs[0]
    display = Display(4, 2)
    display._estimate([_Running(job, None), _Running(job, 100.0)], 10.0)  # type: ignore[list-item]
    display._estimate([_Running(job, 100.0)], 20.0)  # type: ignore[list-item]
    assert capsys.readouterr().out == "time: about 3:20 for 4 jobs by the first steps of job 1, if all are alike\n"
