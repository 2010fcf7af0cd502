"""What a sweep's command line (`-m`) asks for: its jobs, or the space that a search draws them from."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from imgcls.config.compose import check_choices, to_config
from imgcls.config.hydra_internals import (
    Dimension,
    checked_configs,
    compose_whole,
    compose_within_main,
    expand,
    parse_overrides,
    read_words,
    search_space,
)
from imgcls.config.identity import is_incidental, run_name
from imgcls.config.job_table import JobLine, read_job_lines, split_file
from imgcls.config.launchers import check_launcher
from imgcls.config.messages import COMPOSITION_ERRORS, one_line
from imgcls.config.plugs import CROP_PLUGS
from imgcls.config.schema import Config, SweepConfig
from imgcls.config.settings import check_rules, setting
from imgcls.config.words import quoted
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError
from imgcls.metrics import metrics_of

SAMPLERS = ("tpe", "random", "gp", "cmaes")  # every combination is a sweep without a search
PRUNERS = ("none", "median", "halving", "hyperband")
DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        number: from 1, in the order of the command line.
        words: of train.py's command line for this run alone.
        swept: those that tell it from the other jobs, as `seed=1`.
        config, path: the run and its directory.
    """

    number: int
    words: tuple[str, ...]
    swept: str
    config: Config
    path: Path


@dataclass
class SearchConfig:
    """A search by Optuna, as `hydra/sweeper=optuna` and `hydra.sweeper.*` describe it."""

    n_trials: int = setting(20, least=1)
    sampler: str = setting("tpe", one_of=SAMPLERS)
    seed: int | None = setting(0, least=0)
    pruner: str = setting("none", one_of=PRUNERS)
    direction: str | None = setting(None, one_of=DIRECTIONS)
    storage: str | None = None
    study_name: str | None = None
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """What a command line with `-m` asks for.

    Args:
        words: of the command.
        name: of the directory below sweeps/.
        settings: how the jobs are run.
        jobs: the runs of a grid; none yet of a search.
        space: what a search draws from.
        search: its settings, or None for a grid.
        launcher: what starts the jobs: basic, or the name of a plugin of Hydra.
        launcher_words: the command's words about the launcher.
        multirun: the composed config of the whole sweep, as YAML.
    """

    words: tuple[str, ...]
    name: str
    settings: SweepConfig
    jobs: list[Job]
    space: list[Dimension]
    search: SearchConfig | None
    launcher: str
    launcher_words: tuple[str, ...]
    multirun: str
    constant: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command line that starts the sweep, or goes on with it."""
        return shlex.join(self.words)

    def trial(self, number: int, values: Mapping[str, str]) -> Job:
        """Return the job of a search that has these values."""
        words = [f"{key}={value}" for key, value in values.items()]
        with compose_within_main(), checked_configs():
            return _job(number, [*self.constant, *words], words, self.options)

    def probe(self) -> list[Job]:
        """Return two jobs at opposite ends of the search space, to check before the first one starts."""
        return [self.trial(end + 1, {each.key: each.ends[end] for each in self.space}) for end in (0, 1)]


def read_sweep(words: Sequence[str]) -> Sweep:
    """Return the sweep that train.py's `words` ask for, with every job composed and checked.

    Raises:
        ConfigError: a mistake in any job, no job at all, or two jobs with one run directory.
        HydraException, OmegaConfBaseException: as composing a run.
    """
    overrides = read_words(list(words)).overrides
    options = tuple(word for word in words if word not in overrides and word not in ("-m", "--multirun"))
    launcher_words = tuple(word for word in overrides if _is_about(word, "launcher"))
    file, plain = split_file(word for word in overrides if word not in launcher_words)
    lines = [JobLine("", [])] if file is None else read_job_lines(file, plain)
    with compose_within_main(), checked_configs():
        fixed, swept = _split_keys(plain)
        first = _first_choices([*lines[0].words, *swept] if lines else swept)
        master = compose_whole("config", [*first, *fixed], _config_dir(options))
        sweeper, search = _sweeper(master)
        typed = {word.partition("=")[0].lstrip("+") for word in plain}
        params = (search.params if search else OmegaConf.select(master, "hydra.sweeper.params")) or {}
        whole = [*(f"{key}={value}" for key, value in params.items() if key not in typed), *plain]
        fixed, swept = _split_keys(whole)
        space = search_space(swept) if search else []
        lists = [] if search else [(line, job) for line in lines for job in expand([*line.words, *whole])]
        jobs = [
            _listed_job(number, line, job, _differing(job, fixed), options)
            for number, (line, job) in enumerate(lists, start=1)
        ]
        multirun = _yaml(master, overrides)
    if search and file is not None:
        raise ConfigError(f"sweep.file={file} lists the jobs, which a search chooses; leave one of them out")
    if search and not space:
        raise ConfigError(f"hydra/sweeper={sweeper}: nothing to search for; write optimizer.lr=interval(0.01,1)")
    if not search and not jobs:
        empty = next((word for word in swept if not expand([word])), "-m")
        raise ConfigError(f"{empty}: this sweep has no jobs; nothing fits, so name what there is (--help lists it)")
    settings = jobs[0].config.sweep if jobs else _job_settings(master)
    launcher = next((w.partition("=")[2] for w in launcher_words if w.partition("=")[0] == "hydra/launcher"), "basic")
    if launcher != "basic":
        check_launcher(launcher)
        if search:
            raise ConfigError(f"hydra/launcher={launcher}: a search starts its trials itself; use sweep.jobs=N instead")
    sweep = Sweep(
        words=tuple(words),
        name=_name(settings.name or (file and _name_of_table(file, plain)), plain),
        settings=settings,
        jobs=jobs,
        space=space,
        search=search,
        launcher=launcher,
        launcher_words=launcher_words,
        multirun=multirun,
        constant=tuple(fixed),
        options=options,
    )
    check_directories(jobs or sweep.probe())
    return sweep


def check_directories(jobs: Iterable[Job]) -> None:
    """Refuse two jobs that would share a run directory.

    Raises:
        ConfigError: naming both, and what to change.
    """
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.path.resolve(), job)
        if other is not job and other.swept == job.swept:
            raise ConfigError(f"jobs {other.number} and {job.number} are the same run ({job.swept}); ask for it once")
        if other is not job:
            raise ConfigError(
                f"jobs {other.number} ({other.swept}) and {job.number} ({job.swept}) would share the run directory "
                f"{job.path}; give each its own directory: {_way_out(job)}"
            )


def _way_out(job: Job) -> str:
    """Return what to write so that each job of a sweep has its own directory."""
    key = job.swept.split()[-1].partition("=")[0]
    if job.config.name:
        return f"leave name= out (or name=null), or write name='{job.config.name}-${{{key}}}'"
    if any(word.startswith("hydra.sweep.") for word in job.words) or "runs" not in job.path.parts:
        return f"leave hydra.run.dir= out, or put ${{{key}}} into it"
    return f"they differ in what changes no result, so name them: name='${{{key}}}'"


def _listed_job(
    number: int, line: JobLine, words: Sequence[str], differing: Sequence[str], options: Sequence[str]
) -> Job:
    """Return a job of a list; of one from a file an error names its line."""
    try:
        if line.words:
            check_choices(line.words)
        return _job(number, words, differing, options)
    except (ConfigError, *COMPOSITION_ERRORS) as error:
        if not line.place:
            raise
        raise ConfigError(f"{line.place}: {one_line(error)}") from error


def _job(number: int, words: Sequence[str], differing: Sequence[str], options: Sequence[str]) -> Job:
    numbered = [f"hydra.job.num={number - 1}", f"hydra.job.id='{number - 1}'"]
    # Expanded words have their special characters escaped: $\{hydra:job.num\}.
    if any("hydra:job." in word.replace("\\", "") for word in words):
        words = [*words, *numbered]
    cfg = compose_whole("config", words, _config_dir(options))
    path = Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir
    with flag_override(cfg, ["readonly", "struct"], False):
        del cfg["hydra"]
    kept = [word for word in words if not _is_about(word, "sweeper") and not word.startswith("hydra.run.dir=")]
    # The directory that was checked, whatever in the command has led to it.
    kept.append(quoted("hydra.run.dir", str(path)))
    own = _config_dir(options)
    config = to_config(cfg, words=kept, folders=[CONF_DIR, *([own] if own else [])])
    return Job(number, (*options, *kept), " ".join(differing), config, path)


def _is_about(word: str, part: str) -> bool:
    return word.lstrip("+~").startswith((f"hydra/{part}", f"hydra.{part}"))


def _split_keys(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that are the same in every job, and those with several values."""
    swept = [
        word for word, override in zip(words, parse_overrides(list(words)), strict=True) if override.is_sweep_override()
    ]
    return [word for word in words if word not in swept], swept


def _first_choices(words: Sequence[str]) -> list[str]:
    """Return the first value of each word that chooses a file of conf/ or a crop: fixed words may be settings of it."""
    keys = [word.partition("=")[0].lstrip("+") for word in words]
    plugs = [word for key, word in zip(keys, words, strict=True) if key in CROP_PLUGS or (CONF_DIR / key).is_dir()]
    return [choices[0][0] for word in plugs if (choices := expand([word]))]


def _differing(job: Sequence[str], fixed: Sequence[str]) -> list[str]:
    keys = {word.partition("=")[0] for word in fixed}
    return [word for word in job if word.partition("=")[0] not in keys]


def _sweeper(master: DictConfig) -> tuple[str, SearchConfig | None]:
    """Return the sweeper's name, and its settings if it searches."""
    name = master.hydra.runtime.choices["hydra/sweeper"]
    if name == "basic":
        return name, None
    if name != "optuna":
        raise ConfigError(f"hydra/sweeper={name}: sweeps are run by basic (every combination) and optuna (a search)")
    node = OmegaConf.merge(OmegaConf.structured(SearchConfig), master.hydra.sweeper)
    search = OmegaConf.to_object(node)
    assert isinstance(search, SearchConfig)
    check_rules(search, "hydra.sweeper.")
    return name, search


def direction(search: SearchConfig, config: Config) -> str:
    """Return whether the metric that chooses a run's best epoch is to be maximized or minimized.

    Raises:
        ConfigError: hydra.sweeper.direction asks for the other.
    """
    metric = config.checkpoint.best_metric
    wanted = "maximize" if metrics_of(config.topk)[metric].higher_is_better else "minimize"
    if search.direction not in (None, wanted):
        raise ConfigError(
            f"hydra.sweeper.direction={search.direction}: a run returns its best val/{metric} "
            f"(checkpoint.best_metric), which is {wanted}d; leave it out, or choose another metric"
        )
    return wanted


def _job_settings(master: DictConfig) -> SweepConfig:
    settings = OmegaConf.to_object(master.sweep)
    assert isinstance(settings, SweepConfig)
    check_rules(settings, "sweep.")
    return settings


def _config_dir(options: Sequence[str]) -> str | None:
    return read_words(list(options)).config_dir


def _yaml(master: DictConfig, overrides: Sequence[str]) -> str:
    whole = OmegaConf.to_container(master, resolve=False, enum_to_str=True)
    assert isinstance(whole, dict)
    whole["hydra"]["mode"] = "MULTIRUN"
    whole["hydra"]["overrides"]["task"] = [word for word in overrides if not word.startswith("hydra")]
    return OmegaConf.to_yaml(OmegaConf.create(whole))


def _name_of_table(file: Path, words: Sequence[str]) -> str:
    """Return the name of a sweep of a file's jobs: the file's, and the words of the command, if any decide a result."""
    others = _name(None, words)
    return file.stem if others == "default" else f"{file.stem}+{others}"


def _name(given: str | None, words: Sequence[str]) -> str:
    """Return the name of the sweep's directory: the same for the same command, whatever changes no result."""
    keys = {word: word.partition("=")[0].lstrip("+~") for word in words}
    kept = [
        word.replace("=", "-", 1)
        for word, key in keys.items()
        if (key == "name" or not is_incidental(key)) and not _is_about(word, "sweeper")  # name= names the runs
    ]
    return run_name(given or "+".join(kept).replace(",", "_") or "default", "")
