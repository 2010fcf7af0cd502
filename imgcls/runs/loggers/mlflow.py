"""MLflow, by its package mlflow or the smaller mlflow-skinny."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from imgcls.errors import ConfigError
from imgcls.runs.loggers.logger import Description, Place, check_package

if TYPE_CHECKING:
    import numpy as np

MOST_AT_ONCE = 100  # settings, as MLflow's REST API takes them
LONGEST = 500  # letters of a setting, which every kind of store takes


class MLflow:
    """Log to MLflow.

    Args:
        uri: of the server, such as http://localhost:5000, or a folder; null: as the variable MLFLOW_TRACKING_URI says,
            or the folder mlruns.
        experiment: that the run is listed in.

    Raises:
        ValueError: mlflow is not installed.
    """

    may_fail = True

    def __init__(self, uri: str | None = None, experiment: str = "imgcls") -> None:
        check_package("logger=mlflow", "mlflow", "mlflow-skinny")
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns"
        self._experiment = experiment

    def open(self, place: Place) -> str:
        """Begin a run, or go on with it.

        Raises:
            ConfigError: the store does not answer, or cannot be opened.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a run reports to nobody but its own store
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7, MLflow's default, take minutes
        uri = self._uri
        if not urlparse(uri).scheme:
            uri = Path(uri).expanduser().resolve().as_uri()
        if uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it MLflow 3 refuses a folder
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            self._client = MlflowClient(tracking_uri=uri)
            run_id = place.run_id if place.run_id and self._goes_on(place.run_id) else None
            self._run_id = run_id or self._begin(place)
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"logger=mlflow: {self._uri} cannot be logged to ({reason})") from error
        return self._run_id

    def _goes_on(self, run_id: str) -> bool:
        """Return True if the store has the run, which goes on then."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _begin(self, place: Place) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        known = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        return self._client.create_run(known, run_name=place.name).info.run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(tag, value, now, step) for tag, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def image(self, tag: str, image: "np.ndarray", step: int) -> None:
        self._client.log_image(self._run_id, image, artifact_file=f"{tag}_{step:08}.png")

    def describe(self, description: Description) -> None:
        """Log the settings; of a run that goes on with changes MLflow keeps the first, and the new ones become tags."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params
        texts = {key: str(value)[:LONGEST] for key, value in description.settings.items()}
        new = [Param(key, text) for key, text in texts.items() if key not in known]
        self._client.set_tag(self._run_id, "command", description.command)
        for first in range(0, len(new), MOST_AT_ONCE):
            self._client.log_batch(self._run_id, params=new[first : first + MOST_AT_ONCE])
        for key, text in texts.items():
            if key in known and known[key] != text:
                self._client.set_tag(self._run_id, f"changed.{key}", text)

    def flush(self) -> None:
        """Do nothing: each call has written what it was given."""

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "FAILED")
