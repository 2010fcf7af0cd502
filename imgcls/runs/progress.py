"""The progress of a pass over the data: a bar or plain lines, and where the time goes."""

import io
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from imgcls.metrics import METRICS, Scores

log = logging.getLogger(__name__)
Item = TypeVar("Item")


class Progress:
    """A tqdm bar on a terminal; elsewhere (a log file, CI) a plain line every `line_seconds`.

    Use as a context: log lines written inside it appear above the bar.
    """

    def __init__(
        self, label: str, *, total: int, done: int = 0, num_images: int, enabled: bool = True, line_seconds: float = 30
    ) -> None:
        self.label = label
        self.total = total
        self.done = done
        self.num_images = num_images
        self.enabled = enabled
        self.line_seconds = line_seconds
        self.text = ""
        self._started = self._logged_at = time.monotonic()
        self._first = done
        terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            leave=False,
            dynamic_ncols=True,
            disable=not terminal,
            file=sys.stderr if terminal else io.StringIO(),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )
        self._redirect = logging_redirect_tqdm() if terminal else None

    def advance(self) -> None:
        """Count one batch."""
        self.done += 1
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and self.enabled and now - self._logged_at > self.line_seconds:
            self._logged_at = now
            left = (now - self._started) / (self.done - self._first) * (self.total - self.done)
            log.info("%s  %d/%d  %s  %.0f s left", self.label, self.done, self.total, self.text, left)

    def show(self, scores: Scores) -> None:
        """Show scores, and the images per second since the start."""
        seconds = time.monotonic() - self._started
        speed = (self.done - self._first + 1) * self.num_images / max(seconds, 1e-9)
        shown = [
            f"{metric.title} {metric.text(getattr(scores, name), digits=metric.digits - 1)}"
            for name, metric in METRICS.items()
            if metric.in_progress
        ]
        self.text = "  ".join([*shown, f"{speed:,.0f} img/s"])
        self._bar.set_postfix_str(self.text, refresh=False)

    def __enter__(self) -> "Progress":
        if self._redirect is not None:
            self._redirect.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.close()
        if self._redirect is not None:
            self._redirect.__exit__(*exception)


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
            "train/images_per_second": num_images / seconds,
            "train/data_wait_percent": 100 * min(1.0, self.waited / seconds),
        }
        self.started, self.waited = now, 0.0
        return figures
