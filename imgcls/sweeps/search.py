"""A sweep whose jobs Optuna chooses: a trial is a run, its value the best of the metric that chooses the best epoch."""

import importlib.util
import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imgcls.config import Dimension, Job, SearchConfig, Sweep, direction
from imgcls.environment import command
from imgcls.errors import ConfigError
from imgcls.sweeps.directory import SweepDirectory
from imgcls.sweeps.display import say
from imgcls.sweeps.driver import Source, conclude, drive
from imgcls.sweeps.outcome import Outcome
from imgcls.sweeps.processes import Process

if TYPE_CHECKING:
    import optuna

STORAGE = "search.db"


class Search(Source):
    """The trials of a study, those of earlier starts of the command included.

    A trial that a signal stopped, or that failed, is asked for again: its run goes on where it stopped.

    Raises:
        ConfigError: the study is of another space or metric, or the sampler does not fit the space.
    """

    def __init__(self, sweep: Sweep, directory: SweepDirectory) -> None:
        import optuna

        assert sweep.search is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._sweep = optuna, sweep
        (probe, *_) = sweep.probe()
        self.metric = probe.config.checkpoint.best_metric
        self.study = _open_study(optuna, sweep, directory, direction(sweep.search, probe.config))
        self._check_same()
        self._trials: dict[int, optuna.Trial] = {}  # those that run, by the number of their job
        self._reported: dict[int, int] = {}
        self._pending: tuple[optuna.Trial, Job] | None = None
        self._active: set[Any] = set()
        self.total = sweep.search.n_trials
        self._left = self._take_up(directory)

    def _check_same(self) -> None:
        """Refuse a study whose trials had other values to choose from, or another value to reach."""
        asked = json.loads(
            json.dumps({"metric": self.metric, "space": self._sweep.space, "constant": self._constant()})
        )
        known = self.study.user_attrs.get("asked", asked)
        if known != asked:
            key = next(key for key in asked if known.get(key) != asked[key])
            raise ConfigError(
                f"the study {self.study.study_name} searched with another {key}: {known.get(key)} there, {asked[key]} "
                "now; give this sweep another name (sweep.name=...)"
            )
        self.study.set_user_attr("asked", asked)

    def _constant(self) -> list[str]:
        return sorted(word for word in self._sweep.constant if not word.startswith(("sweep.", "hydra")))

    def _take_up(self, directory: SweepDirectory) -> int:
        """Keep what earlier starts found, and queue again what they left; return how many trials are left."""
        states = self._optuna.trial.TrialState
        done, again = [], {}
        for trial in self.study.get_trials():
            values = json.dumps(trial.params, sort_keys=True)
            if trial.state in (states.COMPLETE, states.PRUNED):
                done.append(trial)
            elif trial.params:  # failed, or left running by a sweep that was killed
                again[values] = trial.params
            if trial.state == states.RUNNING:
                self.study.tell(trial.number, state=states.FAIL)
        for trial in done:
            again.pop(json.dumps(trial.params, sort_keys=True), None)
            job = self._job(trial.number, trial.params)
            pruned = trial.state == states.PRUNED
            directory.outcomes[job.number] = Outcome(
                job, "pruned" if pruned else "finished", value=None if pruned else trial.value, already=True
            )
        for params in again.values():
            self.study.enqueue_trial(params, skip_if_exists=False)
        directory.write()
        return max(0, self.total - len(done))

    @property
    def exhausted(self) -> bool:
        return self._left <= 0 and self._pending is None

    def next(self) -> Job | None:
        if self.exhausted:
            return None
        if self._pending is None:
            self._left -= 1
            trial = self.study.ask()
            params = {each.key: _suggest(trial, each) for each in self._sweep.space}
            self._pending = trial, self._job(trial.number, params)
        trial, job = self._pending
        if job.path in self._active:  # the same values again, while they are tried: this one waits for the result
            return None
        self._pending = None
        self._trials[job.number], self._reported[job.number] = trial, 0
        self._active.add(job.path)
        return job

    def _job(self, number: int, params: Mapping[str, Any]) -> Job:
        return self._sweep.trial(number + 1, {each.key: each.text(params[each.key]) for each in self._sweep.space})

    def ended(self, outcome: Outcome) -> None:
        states = self._optuna.trial.TrialState
        self._active.discard(outcome.job.path)
        trial = self._trials.pop(outcome.job.number)
        if outcome.state == "finished" and outcome.value is not None:
            self.study.tell(trial, outcome.value)
        elif outcome.state == "pruned":
            self.study.tell(trial, state=states.PRUNED)
        else:
            self.study.tell(trial, state=states.FAIL)

    def prunes(self, process: Process) -> bool:
        number, trial = process.job.number, self._trials[process.job.number]
        process.follower.look()
        values = process.follower.values
        first, self._reported[number] = self._reported[number], len(values)
        for epoch, value in enumerate(values[first:], start=first):
            if value is not None:
                trial.report(value, epoch)
        return len(values) > first and len(values) < (process.follower.epochs or 0) and trial.should_prune()

    def best(self) -> tuple[Job, float] | None:
        """Return the best job and its value, or None before a trial has ended."""
        finished = [trial for trial in self.study.get_trials() if trial.state == self._optuna.trial.TrialState.COMPLETE]
        if not finished:
            return None
        best = self.study.best_trial
        assert best.value is not None
        return self._job(best.number, best.params), best.value


def run_search(sweep: Sweep) -> int:
    """Run the trials of a search, or go on with it; return the exit code.

    Raises:
        ConfigError: Optuna is not installed, or does not take what the command asks for.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna needs Optuna, which is not installed: pip install optuna")
    with SweepDirectory(sweep) as directory:
        search = Search(sweep, directory)
        slots = min(sweep.settings.jobs, search.total)
        say(f"search of {search.total} trials, {slots} at a time: {directory.path}")
        stopped = drive(search, directory, slots=slots, fail_fast=sweep.settings.fail_fast)
        code = conclude(directory, stopped)
        if (best := search.best()) is not None:
            job, value = best
            say(f"best val/{search.metric}: {value:.4g} by {job.swept} ({job.path})")
            words = [word for word in job.words if not word.startswith(("sweep.", "hydra.run.dir="))]
            say(f"its command: {command('train')} {shlex.join(words)}")
        return code


def _open_study(optuna: Any, sweep: Sweep, directory: SweepDirectory, direction: str) -> "optuna.Study":
    search = sweep.search
    assert search is not None
    storage = search.storage or f"sqlite:///{directory.path / STORAGE}"
    name = search.study_name or sweep.name
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)
    except Exception as error:  # of the database's own kinds: no such driver, no such host, a damaged file
        raise ConfigError(f"hydra.sweeper.storage={storage}: {' '.join(str(error).split())[:200]}") from error
    # A sampler that starts again with one seed would draw again what it has drawn.
    seed = None if search.seed is None else search.seed + len(study.get_trials(deepcopy=False))
    study.sampler = _sampler(optuna, search, seed)
    study.pruner = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }[search.pruner]()
    return study


def _sampler(optuna: Any, search: SearchConfig, seed: int | None) -> Any:
    samplers = optuna.samplers
    if search.sampler in ("gp", "cmaes"):
        needed = "torch" if search.sampler == "gp" else "cmaes"
        if importlib.util.find_spec(needed) is None:
            raise ConfigError(f"hydra.sweeper.sampler={search.sampler} needs a package: pip install {needed}")
    kinds = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "gp": samplers.GPSampler,
        "cmaes": samplers.CmaEsSampler,
    }
    return kinds[search.sampler](seed=seed)


def _suggest(trial: "optuna.Trial", dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return trial.suggest_categorical(dimension.key, dimension.choices)
    if dimension.whole:
        step = int(dimension.step or 1)
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(dimension.key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
