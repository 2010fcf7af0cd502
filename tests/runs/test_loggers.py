"""The loggers are given what TensorBoard is, by their real packages, and go on with their run."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgcls.config import Config, compose
from imgcls.errors import ConfigError
from imgcls.runs import Events, build_loggers
from imgcls.runs.loggers import Description, Logger, MLflow, Place

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]


class Recorder:
    """A logger that keeps what it is given."""

    def __init__(self, may_fail: bool = False, fails: bool = False) -> None:
        self.may_fail, self.fails = may_fail, fails
        self.places: list[Place] = []
        self.given: dict[str, list[tuple[int, float]]] = {}
        self.pictures: dict[str, tuple[int, ...]] = {}
        self.values: dict[str, Any] = {}
        self.ends: list[bool] = []

    def open(self, place: Place) -> str:
        self.places.append(place)
        return place.run_id or f"id{len(self.places)}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.fails:
            raise ConnectionError("the service is away")
        for tag, value in values.items():
            self.given.setdefault(tag, []).append((step, value))

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        assert image.dtype == np.uint8
        self.pictures[tag] = image.shape

    def describe(self, description: Description) -> None:
        self.values |= description.settings

    def flush(self) -> None: ...

    def close(self, *, finished: bool) -> None:
        self.ends.append(finished)


def events_of(path: Path, logger: Logger, position: dict[str, int] | None = None) -> Events:
    return Events(path, loggers={"mine": logger}, enabled=True, position=position)


def use(events: Events) -> None:
    events.describe({"optimizer.lr": 0.1}, model="lenet5", command="train")
    events.scalars(10, {"eval/top1": 50.0, "train/lr": 0.1})
    events.images("visual/first_batch", torch.randn(20, 3, 8, 8), 0)


def test_a_service_goes_on_with_the_run_that_a_resumed_run_was_and_not_of_one_that_begins(tmp_path: Path) -> None:
    logger = Recorder()
    first = events_of(tmp_path, logger)
    use(first)
    position = first.position()
    first.close()
    events_of(tmp_path, logger, position).close(finished=True)
    events_of(tmp_path, logger).close(finished=True)
    assert [(place.run_id, place.goes_on) for place in logger.places] == [(None, False), ("id1", True), (None, False)]
    assert logger.places[0].name == f"{tmp_path.parent.name}/{tmp_path.name}"
    assert logger.ends == [False, True, True]
    assert logger.given == {"eval/top1": [(10, 50.0)], "train/lr": [(10, 0.1)]}
    assert logger.values == {"Model": "lenet5", "Run": tmp_path.name, "LR": 0.1}


def test_a_service_that_fails_is_left_out_with_a_warning_and_a_file_that_cannot_be_written_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Recorder(may_fail=True, fails=True)
    events = events_of(tmp_path, service)
    with caplog.at_level(logging.WARNING):
        use(events)
        use(events)
    assert caplog.text.count("logger=mine failed, and gets nothing more in this run: the service is away") == 1
    assert not service.pictures
    with pytest.raises(ConnectionError):
        use(events_of(tmp_path, Recorder(fails=True)))


def test_a_logger_takes_its_settings_from_the_command_line_and_refuses_others() -> None:
    (name,) = build_loggers(compose(["logger=tensorboard"]).logger)
    assert name == "tensorboard"
    assert compose(["logger=none"]).logger == compose(["logger=[]"]).logger == {}
    with pytest.raises(ConfigError, match=r"logger=tensorbord: there is no such logger \(did you mean tensorboard\?\)"):
        compose(["logger=[tensorbord]"])
    with pytest.raises(ConfigError, match=r"tensorboard: there is no such key \(did you mean logger\?\)"):
        compose(["tensorboard=false"])
    node = {"_target_": "imgcls.runs.loggers.MLflow", "experimnt": "x"}
    with pytest.raises(ConfigError, match=r"logger.mine.experimnt=x: .* takes no experimnt \(did you mean experiment"):
        build_loggers({"mine": node})
    with pytest.raises(ConfigError, match=r"logger.mine._target_=os.system is not allowed"):
        build_loggers({"mine": {"_target_": "os.system"}})


@pytest.mark.parametrize("name, package", [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"logger={name} needs the package {package}, .* pip install {package}"):
        build_loggers(compose([f"logger={name}"]).logger)


@pytest.mark.e2e
def test_mlflow_has_the_scores_pictures_and_settings_of_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run, store = tmp_path / "run", tmp_path / "store"
    run.mkdir()
    first = events_of(run, MLflow(uri=str(store)))
    use(first)
    position = first.position()
    first.close()
    again = events_of(run, MLflow(uri=str(store)), position)
    again.describe({"optimizer.lr": 0.2, "new": 1}, model="lenet5", command="train")
    again.scalars(20, {"eval/top1": 60.0})
    again.close(finished=True)
    client = MlflowClient(tracking_uri=store.as_uri())
    experiment = client.get_experiment_by_name("imgcls")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    run_id = logged.info.run_id
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "eval/top1")] == [
        (10, 50.0),
        (20, 60.0),
    ]
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == f"{tmp_path.name}/run"
    assert logged.data.params == {"Model": "lenet5", "Run": "run", "LR": "0.1", "new": "1"}
    assert (logged.data.tags["changed.LR"], logged.data.tags["command"]) == ("0.2", "train")
    assert [file.path for file in client.list_artifacts(run_id, "visual")] == ["visual/first_batch_00000000.png"]
    assert json.loads((run / "loggers.json").read_text()) == {"mine": run_id}


@pytest.mark.e2e
def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"logger=mlflow: .*file/store cannot be logged to") as raised:
        MLflow(uri=str(tmp_path / "file/store")).open(Place(tmp_path, "x"))
    assert "\n" not in str(raised.value)
