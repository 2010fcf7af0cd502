"""A search prunes trials that are behind, and takes up again what a stop or a failure has left."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imgcls.config import Config, Job, Sweep
from imgcls.config.command_line import plain_words
from imgcls.config.compose import register
from imgcls.config.sweep import read_sweep
from imgcls.sweeps.directory import SweepDirectory
from imgcls.sweeps.outcome import Outcome

pytest.importorskip("optuna")
from imgcls.sweeps.search import Search, run_search

SPACE = "optimizer.lr=tag(log,interval(0.01,1))"


@pytest.fixture
def search_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """Read a search of LeNet-5 in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read(*words: str) -> Sweep:
        register()
        words = ("-m", "model=lenet5", "sweep.name=s", "hydra/sweeper=optuna", *words)
        return read_sweep(plain_words(words, Config))

    return read


def running(job: Job | None, *values: float) -> Any:
    return SimpleNamespace(job=job, follower=SimpleNamespace(values=list(values), epochs=3, look=lambda: True))


def next_job(search: Search) -> Job:
    job = search.next()
    assert job is not None
    return job


def test_a_trial_behind_the_others_after_an_epoch_is_pruned(search_of: Callable[..., Sweep]) -> None:
    sweep = search_of(SPACE, "hydra.sweeper.pruner=median", "hydra.sweeper.n_trials=7")
    with SweepDirectory(sweep) as directory:
        search = Search(sweep, directory)
        for _ in range(5):
            job = next_job(search)
            assert not search.prunes(running(job, 50.0, 60.0))
            search.ended(Outcome(job, "finished", value=60.0))
        job = next_job(search)
        assert search.prunes(running(job, 10.0))
        search.ended(Outcome(job, "pruned"))
        assert not search.prunes(running(next_job(search), 70.0))
        again = Search(sweep, directory)
        assert [outcome.state for outcome in directory.outcomes.values()].count("pruned") == 1
        assert not again.exhausted


def test_a_trial_that_was_stopped_or_killed_is_asked_for_again_and_counted_once(
    search_of: Callable[..., Sweep],
) -> None:
    sweep = search_of(SPACE, "hydra.sweeper.n_trials=3", "sweep.jobs=3")
    with SweepDirectory(sweep) as directory:
        first = Search(sweep, directory)
        done, stopped, killed = (next_job(first) for _ in range(3))
        assert first.exhausted
        first.ended(Outcome(done, "finished", value=50.0))
        first.ended(Outcome(stopped, "stopped"))
        second = Search(sweep, directory)
        again = [next_job(second) for _ in range(2)]
        assert second.next() is None
        assert second.exhausted
        assert {job.path for job in again} == {stopped.path, killed.path}
        for job in again:
            second.ended(Outcome(job, "finished", value=60.0))
        assert Search(sweep, directory).exhausted
        best = second.best()
        assert best is not None
        assert best[1] == 60.0


def test_values_that_are_tried_now_are_not_tried_twice_at_a_time(search_of: Callable[..., Sweep]) -> None:
    sweep = search_of("label_smoothing=choice(0.0,0.1)", "hydra.sweeper.n_trials=5", "hydra.sweeper.sampler=random")
    with SweepDirectory(sweep) as directory:
        search = Search(sweep, directory)
        jobs = [job for job in (search.next() for _ in range(9)) if job]
        assert len(jobs) == len({job.path for job in jobs}) <= 2
        assert not search.exhausted
        for job in jobs:
            search.ended(Outcome(job, "finished", value=1.0))
        assert search.next() is not None


def test_a_search_that_starts_again_does_not_draw_its_first_values_again(search_of: Callable[..., Sweep]) -> None:
    sweep = search_of(SPACE, "hydra.sweeper.n_trials=2")
    with SweepDirectory(sweep) as directory:
        search = Search(sweep, directory)
        job = next_job(search)
        search.ended(Outcome(job, "finished", value=1.0))
        assert next_job(Search(sweep, directory)).path != job.path


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_each_sampler_draws_from_the_space_and_hears_of_the_outcome(
    sampler: str, search_of: Callable[..., Sweep]
) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    words = ("seed=range(1,9)", "label_smoothing=interval(0.0,0.2)", f"hydra.sweeper.sampler={sampler}")
    sweep = search_of(*words, "hydra.sweeper.n_trials=3")
    with SweepDirectory(sweep) as directory:
        search = Search(sweep, directory)
        for _ in range(3):
            job = next_job(search)
            assert job.config.seed in range(1, 9)
            assert 0 <= job.config.label_smoothing <= 0.2
            search.ended(Outcome(job, "finished", value=1.0))


def test_a_sampler_whose_package_is_not_there_is_named_with_the_command_that_installs_it(
    search_of: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = search_of(SPACE, "hydra.sweeper.sampler=cmaes")
    monkeypatch.setattr("imgcls.sweeps.search.importlib.util.find_spec", lambda name: None)
    with SweepDirectory(sweep) as directory, pytest.raises(ValueError, match=r"sampler=cmaes.*pip install cmaes"):
        Search(sweep, directory)
    with pytest.raises(ValueError, match=r"hydra/sweeper=optuna.*pip install optuna"):
        run_search(sweep)


def test_a_storage_that_cannot_be_opened_is_one_line(search_of: Callable[..., Sweep]) -> None:
    sweep = search_of(SPACE, "hydra.sweeper.storage=sqlite:////nowhere/x.db")
    with SweepDirectory(sweep) as directory, pytest.raises(ValueError) as error:
        Search(sweep, directory)
    assert str(error.value).startswith("hydra.sweeper.storage=sqlite:////nowhere/x.db: ")
    assert "\n" not in str(error.value)
