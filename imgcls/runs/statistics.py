"""How sure a number is: McNemar's test, and intervals of an accuracy over its images and of a mean over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class McNemar(NamedTuple):
    """Counts of images that only one of two networks has right, and the probability of such a split.

    The probability is two-sided, if both networks were equally good.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare two networks by the images (N,) bool that each has right.

    McNemar 1947, in its exact form: only images that one network alone has right count, and if the two are equally good
    each is as likely to be of one as of the other.

    Raises:
        ValueError: not the same number of images.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} images: McNemar's test compares networks on the same images")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first == only_second:
        return McNemar(only_first, only_second, 1.0)
    from scipy.stats import binomtest  # here: most commands compare nothing

    return McNemar(only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue))


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    half_width: float  # of the 95 % confidence interval

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.half_width:.2f}"


def confidence_interval(values: Sequence[float]) -> Interval:
    """Return the mean of a few runs and the 95 % interval of the true mean, by Student's t (1908).

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    if len(values) < 2:
        raise ValueError("one value has no confidence interval; give two seeds or more")
    from scipy.stats import t  # here: most commands compare nothing

    standard_error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * standard_error)


def bootstrap_interval(hits: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval, in percent, of an accuracy of `hits` right images among `images`.

    The percentile interval of the bootstrap over images (Efron 1979, section 3). Of images that are right or wrong, the
    number of right ones in a sample drawn with replacement is binomial, so its quantiles are computed, not sampled.
    """
    if hits in (0, images):
        return 100.0 * hits / images, 100.0 * hits / images
    from scipy.special import bdtr, bdtrik  # here: most commands compare nothing; scipy.stats takes a second more

    share, quantiles = hits / images, np.array([0.025, 0.975])
    rights = np.ceil(bdtrik(quantiles, images, share))
    # The root may be just above the whole number that is the quantile.
    rights -= (rights > 0) & (bdtr(np.maximum(rights - 1, 0), images, share) >= quantiles)
    return 100 * float(rights[0]) / images, 100 * float(rights[1]) / images


def only_seeds_differ(configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if runs, given by their flat configs, repeat one experiment with different seeds."""
    first = without_seed(configs[0])
    same = all(without_seed(other) == first for other in configs[1:])
    return same and len({config["seed"] for config in configs}) == len(configs)


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that repetitions of an experiment share."""
    return {key: value for key, value in config.items() if key != "seed"}
