"""Weights & Biases, by its package wandb."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from imgcls.errors import ConfigError
from imgcls.runs.loggers.logger import Description, Place, check_package

if TYPE_CHECKING:
    import numpy as np


class WeightsAndBiases:
    """Log to Weights & Biases.

    Args:
        project: that the run is listed in.
        entity: the user or team; null: your own.
        mode: online; offline writes files that `wandb sync` uploads; null: as the variable WANDB_MODE says, or online.
        folder: the folder of wandb's own folder of files; null: the current one, or that of the variable WANDB_DIR.
        tags: of the run.

    Raises:
        ValueError: wandb is not installed.
    """

    may_fail = True

    def __init__(
        self,
        project: str = "imgcls",
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        folder: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        check_package("logger=wandb", "wandb", "wandb")
        self._settings = {"project": project, "entity": entity, "mode": mode, "dir": folder, "tags": tags}

    def open(self, place: Place) -> str:
        """Begin a run, or go on with it.

        Raises:
            ConfigError: nobody is logged in, or the service does not answer.
        """
        import wandb

        try:
            self._run = wandb.init(
                **self._settings,
                name=place.name,
                id=place.run_id,
                resume="allow" if place.run_id else None,
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(
                f"logger=wandb: {reason}; log in with `wandb login`, or use logger.wandb.mode=offline"
            ) from error
        # wandb's own count of steps may not go back, as a run does that is resumed or rolled back.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def image(self, tag: str, image: "np.ndarray", step: int) -> None:
        import wandb

        self._run.log({tag: wandb.Image(image), "step": step})

    def describe(self, description: Description) -> None:
        values = {**description.settings, "command": description.command}
        self._run.config.update(values, allow_val_change=True)

    def flush(self) -> None:
        """Do nothing: wandb writes by itself, at once."""

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
