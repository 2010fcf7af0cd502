"""Precision, recall and F1 of each class and their means, from the counts of true and predicted classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MEASURES = ("precision", "recall", "f1")
MOST_SHOWN = 20  # classes whose scores fit on a terminal


class ClassScores(NamedTuple):
    """Scores of each class (K,) in percent, and its number of images (K,)."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    images: np.ndarray

    def of(self, k: int) -> dict[str, Any]:
        """Return the scores of class `k` by their names."""
        return {name: float(getattr(self, name)[k]) for name in MEASURES} | {"images": int(self.images[k])}

    def averages(self) -> dict[str, dict[str, float]]:
        """Return each score's mean over the classes that have images: each class alike, and by its images."""
        shown = self.images > 0
        return {
            kind: {name: float(np.average(getattr(self, name)[shown], weights=weights)) for name in MEASURES}
            for kind, weights in (("macro", None), ("weighted", self.images[shown]))
        }


def class_scores(counts: np.ndarray) -> ClassScores:
    """Return the scores of counts (K, K), rows the true class, columns the predicted one.

    A class that is never predicted has the precision 0, as in scikit-learn; one without images has the recall 0.
    """
    hits, images, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = 100 * hits / np.maximum(predicted, 1), 100 * hits / np.maximum(images, 1)
    return ClassScores(precision, recall, 200 * hits / np.maximum(predicted + images, 1), images)


def class_table(scores: ClassScores, names: Sequence[str]) -> list[str]:
    """Return the lines of a table: the classes that have images, if they are few, and the two means."""
    shown = np.flatnonzero(scores.images)
    rows = [(names[int(k)], scores.of(int(k))) for k in shown] if len(shown) <= MOST_SHOWN else []
    total = {"images": int(scores.images.sum())}
    rows += [(f"{kind} mean", values | total) for kind, values in scores.averages().items()]
    width = max(len("class"), *(len(name) for name, _ in rows))
    return [
        f"{'class':<{width}}  precision  recall      F1  images",
        *(
            f"{name:<{width}}  {row['precision']:9.2f}  {row['recall']:6.2f}  {row['f1']:6.2f}  {row['images']:6}"
            for name, row in rows
        ),
    ]
