"""Launchers of Hydra's plugins, as `hydra/launcher=joblib`: they start jobs, and know nothing of what a job is.

A plugin sees a config of one number, the job's, and calls a function with it. So nothing of this program's config has
to reach the plugin's processes, and no config folder chooses what a plugin does: only the words of the command line.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from imgcls.config.hydra_internals import callbacks_of
from imgcls.errors import ConfigError, did_you_mean

PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
}
JOB = "imgcls_sweep_job"


def check_launcher(name: str) -> None:
    """Refuse a launcher that is not there.

    Raises:
        ConfigError: with the command that installs it.
    """
    Plugins.instance()  # imports the plugins, which register their configs
    group: dict[str, Any] = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    known = sorted(file.removesuffix(".yaml") for file in group if file.endswith(".yaml"))
    if name in known:
        return
    if name in PACKAGES:
        raise ConfigError(f"hydra/launcher={name}: its plugin is not installed: pip install {PACKAGES[name]}")
    names = sorted({*known, *PACKAGES})
    raise ConfigError(f"hydra/launcher={name}: there is no such launcher{did_you_mean(name, names)}; one of {names}")


def launch(task: Callable[[int], Any], numbers: Sequence[int], *, words: Sequence[str], folder: Path) -> None:
    """Have a launcher call `task(number)` for each number, in separate processes, and wait for all of them.

    Args:
        task: can be pickled by reference.
        words: of the command line, about the launcher.
        folder: where the launcher keeps its own files.

    Raises:
        ConfigError: no such launcher, or a word that it does not take.
    """
    ConfigStore.instance().store(name=JOB, node={"number": -1})
    running, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize(config_path=None, version_base="1.3"):
            where = [f"hydra.sweep.dir='{folder}'", "hydra.sweep.subdir=launcher", "hydra.output_subdir=null"]
            quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.job.chdir=false"]
            cfg = hydra.compose(JOB, overrides=[*words, *where, *quiet], return_hydra_config=True)
            with open_dict(cfg):
                cfg.hydra.mode = "MULTIRUN"
                cfg.hydra.job.name = "sweep"
                cfg.hydra.runtime.output_dir = str(folder)
            HydraConfig.instance().set_config(cfg)
            context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=callbacks_of(cfg))
            launcher = Plugins.instance().instantiate_launcher(context, _Task(task), cfg)
            returns = _launch(launcher, [[f"number={number}"] for number in numbers])
            for each in returns:
                _ = each.return_value  # raises what the task has raised
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = running, config


def _launch(launcher: Launcher, jobs: list[list[str]]) -> Sequence[JobReturn]:
    try:
        return launcher.launch(jobs, initial_job_idx=0)
    except Exception as error:  # of the plugin's own kinds: no Slurm here, a partition that does not exist
        name = type(launcher).__name__
        raise ConfigError(f"{name} could not run the jobs: {type(error).__name__}: {error}") from error


class _Task:
    """What a launcher calls: a function of the config's number."""

    def __init__(self, task: Callable[[int], Any]) -> None:
        self.task = task

    def __call__(self, cfg: DictConfig) -> Any:
        return self.task(cfg.number)
