"""What imgcls takes from inside Hydra is as expected: if Hydra changes it, these tests fail before a user sees it."""

import dataclasses
from pathlib import Path

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from imgcls.config import compose
from imgcls.config.compose import register
from imgcls.config.hydra_internals import (
    ambiguous_override,
    compose_whole,
    compose_within_main,
    group_choices,
    groups_in_use,
    hydra_options,
    read_words,
    refused_override,
    run_main,
    unknown_key,
    without_types,
)
from imgcls.errors import ConfigError


def error_of(override: str) -> BaseException:
    register()
    with compose_within_main(), pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        hydra.compose("config", overrides=[override])
    return caught.value


def test_hydras_parser_tells_overrides_from_words_that_it_refuses() -> None:
    assert read_words(["seed=1", "--cfg", "job", "--config-dir", "mine"]) == (["seed=1"], [], "mine", "job", False)
    assert read_words(["--max-steps=3"]).refused == ["--max-steps=3"]
    assert read_words(["model=lenet5", "-m", "seed=1,2"]).refused == ["seed=1,2"]
    assert {"--cfg", "--help", "--multirun", "-m", "--config-name"} <= hydra_options()


def test_an_error_about_several_values_names_the_override() -> None:
    assert ambiguous_override(error_of("seed=1,2")) == "seed=1,2"
    assert ambiguous_override(ValueError("something else")) is None


def test_an_error_about_an_unknown_key_names_it_and_its_siblings() -> None:
    unknown = unknown_key(error_of("optimizer.lrr=3"))
    assert unknown is not None
    assert unknown.key == "optimizer.lrr"
    assert {"_target_", "lr", "momentum"} <= set(unknown.siblings)
    top = unknown_key(error_of("bath_size=3"))
    assert top is not None
    assert {"batch_size", "data", "optimizer"} <= set(top.siblings)
    assert {"optimizer.lr", "data.root", "batch_size"} <= set(top.everywhere)


def test_an_error_about_a_value_names_the_override_and_its_cause_the_reason() -> None:
    error = error_of("batch_size=many")
    assert refused_override(error) == "batch_size=many"
    assert "'many' of type 'str' could not be converted to Integer" in str(error.__cause__)


def test_the_lines_on_classes_are_left_out_of_an_omegaconf_error() -> None:
    from omegaconf import OmegaConf

    from imgcls.config.schema import Config

    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.merge(OmegaConf.structured(Config), {"seed": "x"})
    assert "object_type" in str(caught.value)
    assert "object_type" not in without_types(str(caught.value))


def test_own_configs_are_listed_with_those_of_conf(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("_target_: mine.Net\n")
    register()
    with compose_within_main():
        cfg = compose_whole("config", ["model=mine", "data=folder"], tmp_path)
        assert {"mine", "vgg16"} <= set(group_choices("model"))
        assert {"model", "data", "experiment"} <= set(groups_in_use())
        assert cfg.model._target_ == "mine.Net"
    assert "mine" not in group_choices("model")


def test_composing_within_a_job_leaves_hydras_state_as_it_was() -> None:
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = state = object()  # type: ignore[assignment]
    try:
        assert dataclasses.is_dataclass(compose())
        assert GlobalHydra.instance().hydra is state
    finally:
        GlobalHydra.instance().hydra = before


QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


def test_hydras_main_composes_the_config_once_and_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    composed, modes = [], []
    load = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *args: object, **settings: object) -> object:
        composed.append(settings)
        return load(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *QUIET])
    assert run_main(lambda cfg: modes.append(HydraConfig.get().mode), "config") is None
    assert len(composed) == 1
    assert modes == [RunMode.RUN]


@pytest.mark.parametrize("words", [["hydra.mode=MULTIRUN"], ["+own=mode"], ["hydra.mode=MULTIRUN", "--cfg", "job"]])
def test_a_sweep_that_is_not_asked_for_by_its_option_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/mode.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *QUIET, *words, f"--config-dir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"hydra\.mode=MULTIRUN: a sweep is asked for on the command line, with -m"):
        run_main(lambda cfg: pytest.fail("it ran"), "config")
    assert not (tmp_path / "runs").exists()
