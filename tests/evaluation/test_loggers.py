"""A test of a network goes to the services that its training would go to, by their real packages."""

import json
from pathlib import Path

import pytest

from imgcls.config import compose

from .helpers import config_of, run

PICTURES = {"test/confusion", "test/calibration"}


@pytest.mark.e2e
def test_mlflow_and_wandb_have_the_scores_and_pictures_of_a_test(
    run_dir: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    store = tmp_path / "store"
    words = ["logger=[mlflow,wandb]", f"logger.mlflow.uri={store}", "logger.wandb.mode=offline"]
    config = config_of(run_dir / "best.pt", root=tiny_folder, out=str(tmp_path / "out"))
    config.logger = compose([*words, f"logger.wandb.folder={tmp_path}"]).logger
    results = run(config)

    client = MlflowClient(tracking_uri=store.as_uri())
    experiment = client.get_experiment_by_name("imgcls")
    assert experiment is not None
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["test/top1"] == pytest.approx(results["top1"])
    assert logged.data.metrics["test/loss"] == pytest.approx(results["loss"])
    pictures = {file.path.rpartition("_")[0] for file in client.list_artifacts(logged.info.run_id, "test")}
    assert pictures >= PICTURES  # and the worst images, if any is wrong

    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    for name in {f"test/{metric}" for metric in ("top1", "loss")} | PICTURES:
        assert name.encode() in written, name
    ids = json.loads((tmp_path / "out/loggers.json").read_text())
    assert ids.keys() == {"mlflow", "wandb"}
