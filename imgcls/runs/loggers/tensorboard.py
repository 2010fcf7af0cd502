"""TensorBoard: event files in the run's directory."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls.runs.directory import EVENT_FILES
from imgcls.runs.loggers.logger import Description, Place

if TYPE_CHECKING:
    import numpy as np


class TensorBoard:
    """Write event files into the directory of the run: `tensorboard --logdir runs` shows them."""

    may_fail = False

    def open(self, place: Place) -> None:
        """Open a new event file; those of a run that this one replaces are deleted."""
        # Imported here: it takes a second, which a run without TensorBoard does not need.
        from torch.utils.tensorboard import SummaryWriter

        if not place.goes_on:
            for old in place.path.glob(EVENT_FILES):
                old.unlink()
        _wait_for_a_later_name(place.path)
        self._writer = SummaryWriter(str(place.path))
        self._is_described = place.goes_on

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def image(self, tag: str, image: "np.ndarray", step: int) -> None:
        self._writer.add_image(tag, image, step, dataformats="HWC")

    def describe(self, description: Description) -> None:
        """Write a row of the table of hyperparameters, the config and the command as texts, and the charts.

        Each run writes its own values alone, and no list of the columns: without one TensorBoard compares the runs and
        puts the settings that differ first, and the scores of `eval/` before those of `train/`.
        """
        from torch.utils.tensorboard.summary import hparams

        _, start, _ = hparams(dict(description.settings), {})
        self._add(start)
        self._is_described = True
        rows = (f"| {key} | {_cell(value)} |" for key, value in description.config.items())
        self._writer.add_text("config", "\n".join(["| setting | value |", "|---|---|", *rows]), 0)
        self._writer.add_text("command", f"    {description.command}", 0)
        charts = {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in description.charts.items()}
        self._writer.add_custom_scalars({"training and validation": charts})

    def _add(self, summary: Any) -> None:
        assert self._writer.file_writer is not None
        self._writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file, and note in the table of hyperparameters that the run has finished."""
        if finished and self._is_described:
            from torch.utils.tensorboard.summary import hparams

            *_, end = hparams({}, {})
            self._add(end)
        self._writer.close()


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _wait_for_a_later_name(path: Path) -> None:
    """Wait until a new event file sorts after those that are there.

    TensorBoard reads them in the order of their names, which begin with the time in whole seconds and go on with the
    process and a count, both compared as text: of two files of one second, 10 would be read before 9.
    """
    while any(path.glob(EVENT_FILES.replace("*", f"{int(time.time()):010d}.*"))):
        time.sleep(0.02)
