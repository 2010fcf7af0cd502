"""The progress of a pass over the data: a bar or plain lines, and where the time goes."""

import io
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from imgcls.metrics import METRICS, Scores
from imgcls.runs.tables import duration_text

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SHOW_EVERY_SECONDS = 10  # at least, where the steps between two logs take longer
BAR_WIDTHS = (8, 32)  # at least and at most; where there is no room for the first one there is no bar


class Field(NamedTuple):
    """A part of the bar's line; of a line that is too long, those that are least `wanted` are left out."""

    text: str
    wanted: int


class Progress:
    """A tqdm bar on a terminal; elsewhere (a log file, CI) a plain line every `line_seconds`.

    Use as a context: log lines written inside it appear above the bar.

    Args:
        total, done: batches of the pass, and how many of them are done.
        num_images: of a batch.
        seconds_after: the seconds that the run takes after this pass, by the seconds of a batch in it, or None.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int,
        done: int = 0,
        num_images: int,
        enabled: bool = True,
        line_seconds: float = 30,
        seconds_after: Callable[[float], float | None] = lambda seconds: None,
    ) -> None:
        self.label = label
        self.total = total
        self.done = done
        self.num_images = num_images
        self.enabled = enabled
        self.line_seconds = line_seconds
        self._seconds_after = seconds_after
        self._scores: list[str] = []
        self._lr = ""
        self._started = self._logged_at = time.monotonic()
        self._shown_at = -math.inf
        self._first = done
        self._first_ended = math.nan
        terminal = enabled and sys.stderr.isatty()
        self._bar = _Line(
            self.line,
            total=total,
            initial=done,
            leave=False,
            dynamic_ncols=True,
            disable=not terminal,
            file=sys.stderr if terminal else io.StringIO(),
            bar_format="{line}",
        )
        self._redirect = logging_redirect_tqdm() if terminal else None

    def advance(self) -> None:
        """Count one batch."""
        self.done += 1
        self._bar.update()
        now = time.monotonic()
        if self.done == self._first + 1:
            self._first_ended = now
        if self._bar.disable and self.enabled and now - self._logged_at > self.line_seconds:
            self._logged_at = now
            shown = [*self._scores, self._lr, self._speed_text(), *self._time_texts()]
            log.info("%s  %d/%d  %s", self.label, self.done, self.total, "  ".join(filter(None, shown)))

    @property
    def due(self) -> bool:
        """True if scores should be shown: none are yet, or those that are shown are old."""
        return self.enabled and time.monotonic() - self._shown_at > SHOW_EVERY_SECONDS

    def show(self, scores: Scores, *, lr: float | None = None) -> None:
        """Show scores, and the lr of the last step."""
        self._shown_at = time.monotonic()
        self._scores = [
            f"{metric.title} {metric.text(getattr(scores, name), digits=metric.digits - 1)}"
            for name, metric in METRICS.items()
            if metric.in_progress
        ]
        self._lr = "" if lr is None else f"lr {lr:.3g}"

    @property
    def seconds_a_batch(self) -> float | None:
        """The mean over this pass, or None before its first batch."""
        done = self.done - self._first
        return (time.monotonic() - self._started) / done if done else None

    @property
    def num_timed(self) -> int:
        """How many batches this pass has had after the first one, which is slow."""
        return max(0, self.done - self._first - 1)

    def steady_seconds_a_batch(self) -> float | None:
        """Return the mean over those, or None before there is one."""
        return (time.monotonic() - self._first_ended) / self.num_timed if self.num_timed else None

    def run_seconds(self, seconds_a_batch: float) -> float | None:
        """Return how long the run still takes at that speed, or None if nothing says."""
        after = self._seconds_after(seconds_a_batch)
        return None if after is None else seconds_a_batch * (self.total - self.done) + after

    def _speed_text(self) -> str:
        seconds = self.seconds_a_batch
        return "" if seconds is None else f"{self.num_images / max(seconds, 1e-9):,.0f} img/s"

    def _time_texts(self) -> list[str]:
        seconds = self.seconds_a_batch
        if seconds is None:
            return []
        left, after = seconds * (self.total - self.done), self._seconds_after(seconds)
        texts = [f"{duration_text(left)} left"]
        return texts if after is None else [*texts, f"run {duration_text(left + after)}"]

    def line(self, columns: int) -> str:
        """Return what the terminal shows, on one line of at most `columns` characters."""
        share = self.done / max(self.total, 1)
        speed, times, bar = self._speed_text(), self._time_texts(), Field("", 2)
        fields = [
            Field(self.label.strip(), 9),
            Field(f"{100 * share:.0f}%", 5),
            bar,
            Field(f"{self.done}/{self.total}", 3),
            *(Field(text, 8) for text in self._scores),
            Field(self._lr, 6),
            Field(speed, 4),
            *(Field(text, 7) for text in times),
        ]
        fields = [field for field in fields if field.text or field is bar]
        widths = {bar: BAR_WIDTHS[0]}

        def width() -> int:
            return sum(widths.get(field, len(field.text)) + 1 for field in fields) - 1

        while len(fields) > 1 and width() > columns:
            fields.remove(min(reversed(fields), key=lambda field: field.wanted))
        room = min(BAR_WIDTHS[1], BAR_WIDTHS[0] + columns - width()) - 2
        texts = [f"|{'#' * round(share * room):<{room}}|" if field is bar else field.text for field in fields]
        return " ".join(texts)[:columns]

    def __enter__(self) -> "Progress":
        if self._redirect is not None:
            self._redirect.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.close()
        if self._redirect is not None:
            self._redirect.__exit__(*exception)


class _Line(tqdm):
    """A tqdm bar whose line another function writes; tqdm draws it, now and then, where log lines leave room."""

    def __init__(self, line: Callable[[int], str], **settings: Any) -> None:
        self._line = line
        super().__init__(**settings)

    @property
    def format_dict(self) -> dict[str, Any]:
        # A column is left free: some terminals go to the next line after the last one.
        known = super().format_dict
        return {**known, "line": self._line((known["ncols"] or 80) - 1)}


class Clock:
    """Measure where the time goes: images per second, and the share of the time spent waiting for data."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.waited = 0.0

    def waits(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield the batches, and measure the time until each one comes."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - started
            if batch is None:
                return
            yield batch

    def lap(self, num_images: int) -> dict[str, float]:
        """Return images per second and the share of waiting since the last lap, which trained on `num_images`."""
        now = time.monotonic()
        seconds = max(now - self.started, 1e-9)
        figures = {
            "usage/images_per_second": num_images / seconds,
            "usage/data_wait_percent": 100 * min(1.0, self.waited / seconds),
        }
        self.started, self.waited = now, 0.0
        return figures
