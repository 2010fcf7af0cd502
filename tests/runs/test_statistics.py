"""McNemar's test and Student's interval give the numbers of tables and of hand-worked cases."""

import json
from pathlib import Path

import numpy as np
import pytest

from imgcls.runs import CONFIG, RESULTS, confidence_interval, find_runs, mcnemar, seeds_table


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


def test_runs_that_differ_only_in_the_seed_are_reported_together(tmp_path: Path) -> None:
    for name, lr, seed, top1 in (("a", 0.1, 1, 90.0), ("b", 0.1, 2, 92.0), ("c", 0.2, 3, 50.0), ("d", 0.1, 4, None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text(json.dumps({"optimizer.lr": lr, "seed": seed}))
        if top1 is not None:
            (tmp_path / name / RESULTS).write_text(json.dumps({"val_top1": top1}))
    (line,) = seeds_table(find_runs([tmp_path]))
    # Student's t with one degree of freedom: 12.7062 standard errors, which are 1 here.
    assert line == f"{tmp_path / 'a'} and 1 more, over 2 seeds: top-1 91.00 +- 12.71 % (95 % interval)"


def test_the_same_seed_twice_is_no_repetition(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text(json.dumps({"optimizer.lr": 0.1, "seed": 1}))
        (tmp_path / name / RESULTS).write_text(json.dumps({"val_top1": 90.0}))
    assert seeds_table(find_runs([tmp_path])) == []
