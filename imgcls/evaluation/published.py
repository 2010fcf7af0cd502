"""Published results, and whether a measured one agrees with them.

published.csv has a row for each: percent of ILSVRC 2012's 50,000 validation images, by network and protocol, and the
source; `weights` names the published weights that were tested, or is empty if a paper trained the network itself.
"""

import csv
import functools
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls.config import build_protocol, protocol_names
from imgcls.data.sets import wnids
from imgcls.errors import ConfigError
from imgcls.evaluation.report import MemberResult, Report
from imgcls.inference import Member, TestProtocol
from imgcls.metrics import METRICS, Scores, percents

log = logging.getLogger(__name__)
PUBLISHED_TABLE = Path(__file__).with_name("published.csv")
# Points of accuracy that the same weights may differ by: decoders and resizing. Measured by many; 0.1 is usual.
SAME_WEIGHTS_BAND = 0.3
# Points that another training may differ by: seeds alone spread by about 0.2 at this size, implementations by more.
TRAINED_BAND = 1.0
NUM_IMAGES = 50_000


class PublishedResult(NamedTuple):
    """A published result: `scores` in percent by the metrics' names, None if that metric was not published."""

    model: str
    protocol: str
    scores: dict[str, float | None]
    weights: str
    source: str


class Comparison(NamedTuple):
    """One accuracy beside the published one; `band` is the expected distance, in points."""

    quantity: str
    measured: float
    published: float
    band: float
    source: str

    @property
    def within(self) -> bool:
        return abs(self.measured - self.published) <= self.band

    def __str__(self) -> str:
        verdict = "within" if self.within else "OUTSIDE"
        return (
            f"{self.quantity} {self.measured:.2f} %, published {self.published:.2f} %: {verdict} "
            f"the expected {self.band:.2f} points ({self.source})"
        )


@functools.cache
def published_results() -> tuple[PublishedResult, ...]:
    with PUBLISHED_TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(
            PublishedResult(
                row["model"],
                row["protocol"],
                {name: float(cell) if (cell := row.get(name)) else None for name in percents(METRICS)},
                row["weights"],
                row["source"],
            )
            for row in csv.DictReader(file)
        )


def find_published(*, model: str, protocol: str, weights: str | None) -> PublishedResult:
    """Return the published result of `model` under `protocol`.

    Args:
        weights: the name of the published weights that are tested; None for a network that was trained here: it is
            compared with its paper, or else with torchvision's first weights, whose training is nearest to it.

    Raises:
        ValueError: nothing is published for it here.
    """
    wanted = [weights] if weights is not None else ["", "IMAGENET1K_V1"]
    of_model = [row for row in published_results() if row.model == model]
    rows = [row for name in wanted for row in of_model if row.protocol == protocol and row.weights == name]
    if not rows:
        tested = f"{model} ({weights})" if weights is not None else model
        known = ", ".join(dict.fromkeys(f"{row.protocol} {row.weights}".strip() for row in of_model)) or "nothing"
        raise ValueError(
            f"compare=published: there is no published number of {tested} under {protocol}; of {model} there is {known}"
        )
    return rows[0]


def compare_scores(scores: Scores, *, model: str, protocol: str, weights: str | None) -> list[Comparison]:
    """Compare scores with the published result.

    With fewer than 50,000 images the band is wider by 1.96 standard errors.

    Raises:
        ValueError: nothing is published for it here.
    """
    row = find_published(model=model, protocol=protocol, weights=weights)
    comparisons = []
    for name, published in row.scores.items():
        measured = scores.values().get(name)
        if measured is not None and published is not None:
            band = SAME_WEIGHTS_BAND if weights is not None else TRAINED_BAND
            if scores.num_images < NUM_IMAGES:
                band += 196 * math.sqrt(published / 100 * (1 - published / 100) / max(1, scores.num_images))
            comparisons.append(Comparison(METRICS[name].title, measured, published, band, row.source))
    return comparisons


def published_protocol(protocol: TestProtocol) -> str:
    """Return the name in conf/protocol of `protocol`, as published.csv has it, or else its name with its settings."""
    names = protocol_names(first="center")
    return next((name for name in names if build_protocol(name) == protocol), protocol.full_name())


def check_comparable(member: Member, labels: np.ndarray, protocol: TestProtocol) -> None:
    """Check that there is a published result to compare with, before the network is run.

    Raises:
        ValueError: the classes, or those of the images, are not ImageNet's, or nothing is published for it.
    """
    assert member.classes is not None
    if tuple(member.classes) != wnids():
        raise ConfigError("compare=published: the published numbers are of ImageNet's 1,000 classes; leave it out")
    if (num_shown := len(np.unique(labels))) < len(member.classes):
        raise ConfigError(
            f"compare=published: the images are of {num_shown} classes alone, the published numbers of all "
            f"{len(member.classes):,}; name the whole set (data.root=...), or leave it out"
        )
    find_published(model=member.arch, protocol=published_protocol(protocol), weights=member.published)


def compare_published(report: Report, member: MemberResult, protocol: TestProtocol) -> list[dict[str, Any]]:
    """Compare the result with the published one, and log it."""
    comparisons = compare_scores(
        report.scores, model=member.arch, protocol=published_protocol(protocol), weights=member.published
    )
    for comparison in comparisons:
        log.info("%s", comparison)
    return [{**comparison._asdict(), "within": comparison.within} for comparison in comparisons]
