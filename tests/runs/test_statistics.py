"""McNemar's test and Student's interval give the numbers of tables and of hand-worked cases."""

import numpy as np
import pytest

from imgcls.runs import bootstrap_interval, confidence_interval, mcnemar


def test_mcnemar_counts_only_what_differs() -> None:
    first = np.array([1, 1, 1, 1, 0, 0, 1], bool)
    second = np.array([0, 0, 0, 0, 1, 0, 1], bool)
    found = mcnemar(first, second)
    # Four against one: 2 * (C(5,0) + C(5,1)) / 2^5.
    assert found == (4, 1, pytest.approx(2 * 6 / 32))
    assert mcnemar(first, first).p_value == 1


def test_mcnemar_bears_the_size_of_imagenet() -> None:
    first, second = np.zeros(50_000, bool), np.zeros(50_000, bool)
    first[:3_000] = True
    second[3_000:5_800] = True
    # The normal approximation: z = 199 / sqrt(5800) with the continuity correction.
    assert mcnemar(first, second).p_value == pytest.approx(0.00899, rel=0.01)
    with pytest.raises(ValueError, match="10 and 9 images"):
        mcnemar(first[:10], second[:9])


def test_the_interval_over_seeds_is_students() -> None:
    found = confidence_interval([70.0, 71.0, 72.0])  # 4.303: the 97.5 % quantile with 2 degrees of freedom
    assert found.mean == pytest.approx(71)
    assert found.half_width == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert str(found) == "71.00 +- 2.48"
    with pytest.raises(ValueError, match="two seeds or more"):
        confidence_interval([70.0])


def test_the_bootstrap_interval_is_that_of_samples_with_replacement() -> None:
    right = np.arange(80) < 52
    generator = np.random.default_rng(0)
    sampled = 100 * generator.choice(right, (20_000, 80)).mean(axis=1)
    low, high = bootstrap_interval(52, 80)
    assert (low, high) == pytest.approx(np.percentile(sampled, [2.5, 97.5]), abs=1.3)  # one image is 1.25 points
    assert bootstrap_interval(0, 80) == (0, 0)
    assert bootstrap_interval(80, 80) == (100, 100)
