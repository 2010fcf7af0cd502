"""What each setting does to the accuracy: runs that differ in it, paired by all their other settings."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgcls.runs.rows import RunRow
from imgcls.runs.statistics import Interval, confidence_interval


@dataclass(frozen=True)
class Effect:
    """The difference in top-1, in points, from one value of a setting to another.

    Args:
        key: the setting.
        before, after: its two values; `before` is the one that most runs have.
        mean: over the pairs, after less before.
        interval: its 95 % interval by Student's t, or None of a single pair.
        num_pairs: pairs of runs that are alike in all other settings.
        over_seeds: no pair has one seed: the values are means over the seeds of each side.
        also: settings that differ with it in every pair, so that the effect may be theirs.
    """

    key: str
    before: Any
    after: Any
    mean: float
    interval: Interval | None
    num_pairs: int
    over_seeds: bool
    also: tuple[str, ...]


def effects(rows: Sequence[RunRow], keys: Sequence[str]) -> list[Effect]:
    """Return the effect of each setting in `keys` on the best top-1 of the finished runs.

    Args:
        keys: the settings that differ, one of those that always differ together, as `differing_keys` has them. Two runs
            are a pair if the others of them are equal, but for those that the setting itself decides.
    """
    rows = [row for row in rows if row.state == "finished" and row.scores.get("top1") is not None]
    keys = list(keys)
    if len(rows) < 2 or not keys:
        return []
    codes = np.array([_codes([row.config.get(key) for row in rows]) for key in keys]).T  # (runs, keys)
    found = []
    for column, key in enumerate(keys):
        if key != "seed" and codes[:, column].any():
            decided = [other for other in range(len(keys)) if other != column and _decides(codes, column, other)]
            found += _of_key(rows, keys, codes, column, decided)
    return found


def _codes(values: Sequence[Any]) -> list[int]:
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return [numbers[text] for text in texts]


def _decides(codes: np.ndarray, column: int, other: int) -> bool:
    """Return True if runs with one value in `column` have one value in `other`."""
    pairs = len(np.unique(codes[:, [column, other]], axis=0))
    return pairs == len(np.unique(codes[:, column]))


def _of_key(
    rows: Sequence[RunRow], keys: list[str], codes: np.ndarray, column: int, decided: Sequence[int]
) -> list[Effect]:
    values = {int(code): rows[number].config.get(keys[column]) for number, code in enumerate(codes[:, column])}
    counts = Counter(map(int, codes[:, column]))
    before = max(counts, key=lambda code: (counts[code], -code))
    rest = [other for other in range(len(keys)) if other != column and other not in decided]
    without_seeds = [other for other in rest if keys[other] != "seed"]
    found = []
    for after in (code for code in counts if code != before):
        over_seeds = False
        differences = _paired(rows, codes, column, (before, after), rest)
        if not differences and without_seeds != rest:
            over_seeds = True
            differences = _paired(rows, codes, column, (before, after), without_seeds)
        if differences:
            also = [keys[other] for other in decided if _differs(codes, column, other, (before, after))]
            found.append(
                Effect(
                    key=keys[column],
                    before=values[before],
                    after=values[after],
                    mean=float(np.mean(differences)),
                    interval=confidence_interval(differences) if len(differences) > 1 else None,
                    num_pairs=len(differences),
                    over_seeds=over_seeds,
                    also=tuple(also),
                )
            )
    return found


def _paired(
    rows: Sequence[RunRow], codes: np.ndarray, column: int, two: tuple[int, int], rest: Sequence[int]
) -> list[float]:
    """Return the difference in top-1 of each pair of runs that are equal in the columns `rest`."""
    scores: dict[tuple[int, ...], tuple[list[float], list[float]]] = {}
    for row, code in zip(rows, codes, strict=True):
        if code[column] in two:
            sides = scores.setdefault(tuple(code[list(rest)]), ([], []))
            sides[two.index(code[column])].append(float(row.scores["top1"] or 0.0))
    return [float(np.mean(after) - np.mean(before)) for before, after in scores.values() if before and after]


def _differs(codes: np.ndarray, column: int, other: int, two: tuple[int, int]) -> bool:
    return len({int(code[other]) for code in codes if code[column] in two}) > 1
