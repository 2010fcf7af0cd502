"""A config folder from a stranger runs no code and writes no file through Hydra's own settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from imgcls.config.trust import check_hydra
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError


def train(folder: Path, *words: str, trusted: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONF_DIR.parent / "train.py"), f"--config-dir={folder}", *words, "+own=evil"]
    environment = os.environ | ({"IMGCLS_TRUST_CONFIG": "1"} if trusted else {})
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment)


def write(folder: Path, hydra: dict) -> None:
    (folder / "own").mkdir()
    text = yaml.safe_dump({"hydra": hydra})
    (folder / "own" / "evil.yaml").write_text(f"# @package _global_\n{text}")


ATTACKS = {
    "callback": {"callbacks": {"evil": {"_target_": "pathlib.Path.touch", "self": "marker"}}},
    "callback that makes a folder": {"callbacks": {"evil": {"_target_": "os.mkdir", "path": "marker"}}},
    "logging factory": {"job_logging": {"handlers": {"evil": {"()": "os.mkdir", "path": "marker"}}}},
    "hydra's logging": {
        "hydra_logging": {"handlers": {"evil": {"class": "logging.FileHandler", "filename": "marker"}}}
    },
    "log file": {"job_logging": {"handlers": {"file": {"filename": "marker"}}}},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_config_folder_runs_nothing_and_is_one_line(attack: str, tmp_path: Path) -> None:
    write(tmp_path, ATTACKS[attack])
    for words in (["data=folder"], ["--cfg", "job"]):  # the second only shows the config
        done = train(tmp_path, *words)
        assert done.returncode == 2, done.stderr
        assert "is not allowed" in done.stderr
        assert "IMGCLS_TRUST_CONFIG=1" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "marker").exists()
    assert train(tmp_path, "--help").returncode == 0  # composed, and nothing of it instantiated
    assert not (tmp_path / "marker").exists()


def test_a_sweep_is_checked_too(tmp_path: Path) -> None:
    write(tmp_path, ATTACKS["callback that makes a folder"])
    done = train(tmp_path, "-m", "seed=1,2", "data=folder")
    assert done.returncode == 2
    assert "hydra.callbacks.evil._target_=os.mkdir is not allowed" in done.stderr
    assert not (tmp_path / "marker").exists()


def test_who_trusts_the_folder_says_so(tmp_path: Path) -> None:
    write(tmp_path, ATTACKS["callback that makes a folder"])
    done = train(tmp_path, "data=folder", trusted=True)
    assert "data.root" in done.stderr  # the run itself, which has none
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "key, value",
    [
        ("launcher._target_", "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"),
        ("sweeper.params.x._target_", "os.mkdir"),
        ("callbacks.list", [{"_target_": "os.mkdir"}]),
        ("job.env_set.PATH", "/tmp"),
        ("job.name", "../x"),
        ("job_logging.filters.x", {"()": "os.mkdir"}),
        ("job_logging.formatters.x.class", "os.mkdir"),
        ("job_logging.formatters.x.()", "os.mkdir"),
        ("job_logging.handlers.x.queue", "os.mkdir"),
        ("job_logging.handlers.file.filename", "/root/.bashrc"),
        ("job_logging.handlers.file.filename", "${hydra.runtime.output_dir}/../../.bashrc"),
        ("job_logging.handlers.file.mode", "w"),
        ("job_logging.handlers.console.stream", "ext://os.environ"),
        ("job_logging.handlers.console.class", "${oc.env:HOME}"),
    ],
)
def test_what_a_config_folder_may_not_have_is_named(key: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    hydra = ours()
    check_hydra(hydra)
    *path, leaf = key.split(".")
    node = hydra
    for part in path:
        node = node.setdefault(part, {})
    node[leaf] = value
    with pytest.raises(ConfigError, match=r"is not allowed: .*IMGCLS_TRUST_CONFIG=1"):
        check_hydra(hydra)
    monkeypatch.setenv("IMGCLS_TRUST_CONFIG", "1")
    check_hydra(hydra)


def ours() -> dict:
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "config.yaml").hydra, resolve=False)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}
