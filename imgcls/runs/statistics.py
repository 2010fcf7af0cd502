"""Whether a difference in accuracy means anything: McNemar's test, and the interval of a mean over seeds.

Imports no torch: the table of a folder of runs comes at once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class McNemar(NamedTuple):
    """Images that only the first, and only the second network has right, and the two-sided probability of such a split
    if both were equally good."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare two networks by the images (N,) bool that each has right.

    McNemar 1947, in its exact form: images that both have right or wrong say nothing; of the others, each is as likely
    to be either's if the two are equal.

    Raises:
        ValueError: not the same number of images.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} images: McNemar's test compares networks on the same images")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(only_first, only_second, _binomial_two_sided(min(only_first, only_second), only_first + only_second))


def _binomial_two_sided(least: int, trials: int) -> float:
    # Twice the lower tail of Binomial(trials, 1/2), by logarithms: trials may be tens of thousands.
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) - trials * math.log(2)
        for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


class Interval(NamedTuple):
    mean: float
    half_width: float  # of the 95 % confidence interval

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.half_width:.2f}"


def confidence_interval(values: Sequence[float]) -> Interval:
    """The mean of a few runs and the 95 % interval of the true mean, by Student's t (1908).

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    if len(values) < 2:
        raise ValueError("one value has no confidence interval; give two seeds or more")
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(float(np.mean(values)), t_quantile(len(values) - 1) * spread)


def only_seeds_differ(configs: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether runs, by their flat configs, are repetitions of one experiment."""
    first = without_seed(configs[0])
    same = all(without_seed(other) == first for other in configs[1:])
    return same and len({config["seed"] for config in configs}) == len(configs)


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What repetitions of an experiment share."""
    return {key: value for key, value in config.items() if key != "seed"}


def t_quantile(degrees: int, *, probability: float = 0.975) -> float:
    """The quantile of Student's t with `degrees` of freedom, above the median."""
    # With t = sqrt(n) tan(a), the density becomes cos(a)^(n-1) on a bounded range, which plain sums integrate.
    angles = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp((probability - 0.5) * 2 * mass[-1], mass, angles)
    return float(math.sqrt(degrees) * math.tan(angle))
