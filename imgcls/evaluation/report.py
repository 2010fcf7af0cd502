"""The report of a test: scores, classes, confusions and mistakes, as a dict, a table, a CSV file and pictures."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.data.decoding import BadImageError
from imgcls.data.sets import Split, readable_names, validation_number
from imgcls.evaluation.calibration import calibration_bins, calibration_error
from imgcls.evaluation.class_scores import MOST_SHOWN, class_scores, class_table
from imgcls.inference import CaptionedImage, Predictions, contact_sheet, draw_calibration, scores_of_predictions
from imgcls.metrics import TOP_K, TOPK, Scores
from imgcls.runs import bootstrap_interval


@dataclass
class MemberResult:
    """The result of testing one network, as the ensemble and the report need it."""

    name: str
    arch: str
    published: str | None
    classes: list[str]
    config: dict[str, Any]
    crop: str  # that it was shown, or validated on
    folder: Path
    split: Split
    labels: np.ndarray
    real: list[list[int]] | None  # ReaL labels of the images, if asked for
    predictions: Predictions | None  # None on ranks other than 0


RESULTS, PREDICTIONS = "results.json", "predictions.csv"
CONFUSION, WORST, CALIBRATION = "confusion.png", "worst.png", "calibration.png"
COUNTS_CSV, COUNTS_JSON = "confusion.csv", "confusion.json"


class Report:
    """The predictions of a network beside the true labels.

    Args:
        predictions: of the images of `split`; images that could not be decoded are missing.
        labels: the true class of every image of `split`, as a position in `classes`.
        classes: the classes of the network, in the order of its outputs.
    """

    def __init__(
        self,
        predictions: Predictions,
        split: Split,
        labels: np.ndarray,
        classes: Sequence[str],
        topk: Sequence[int] = TOPK,
    ) -> None:
        if len(predictions.indices) == 0:
            raise ValueError("there is no image to test on: the set is empty, or none of its images can be decoded")
        self.predictions = predictions
        self.split = split
        self.topk = topk
        self.classes = list(classes)
        self.names = readable_names(classes)
        self.indices = predictions.indices.numpy()
        self.labels = labels[self.indices]
        self.scores = scores_of_predictions(predictions, torch.from_numpy(self.labels), topk)
        best = predictions.log_probs.topk(min(5, len(self.classes)), dim=1)
        self.top = best.indices.numpy()  # (N, 5), the most probable first
        self.top_probs = best.values.double().exp().numpy()
        self.right = self.top[:, 0] == self.labels
        self.counts = self._count_confusions()
        self.class_scores = class_scores(self.counts)
        self.calibration = calibration_bins(self.top_probs[:, 0], self.right)

    def _count_confusions(self) -> np.ndarray:
        """Return counts (K, K): true class by predicted class."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.labels, self.top[:, 0]), 1)
        return counts

    def among_present(self) -> Scores | None:
        """Return the scores if only the classes that have images could be predicted; None if all have, or one alone.

        Hendrycks et al. 2021 score ImageNet-R and ImageNet-A so: 200 of the 1,000 classes.
        """
        present, labels = np.unique(self.labels, return_inverse=True)
        if not 1 < len(present) < len(self.classes):
            return None
        log_probs = self.predictions.log_probs[:, torch.from_numpy(present)].double().log_softmax(dim=1)
        predictions = Predictions(log_probs, self.predictions.indices)
        return scores_of_predictions(predictions, torch.from_numpy(labels), self.topk)

    def per_class(self) -> list[dict[str, Any]]:
        """Return the scores of each class that has images, in percent, the lowest recall first."""
        rows = [
            {"class": self.classes[k], "name": self.names[k], **self.class_scores.of(int(k))}
            for k in np.flatnonzero(self.class_scores.images)
        ]
        return sorted(rows, key=lambda row: (row["recall"], row["class"]))

    def intervals(self) -> dict[str, list[float]]:
        """Return the 95 % bootstrap interval of each top-k, in percent."""
        num_images = len(self.right)
        return {
            name: list(bootstrap_interval(round(value / 100 * num_images), num_images))
            for name, value in self.scores.values().items()
            if re.fullmatch(TOP_K, name) and value is not None
        }

    def most_confused(self, most: int = 10) -> list[dict[str, Any]]:
        """Return pairs of a true and a wrongly predicted class, the most frequent first."""
        counts = self.counts.copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
        return [
            {"true": self.names[i], "predicted": self.names[j], "images": int(counts[i, j])}
            for i, j in pairs
            if counts[i, j]
        ]

    def worst(self, most: int) -> np.ndarray:
        """Return the rows of the mistakes with the highest confidence."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.top_probs[wrong, 0], kind="stable")][:most]

    def write_predictions(self, path: Path) -> None:
        """Write predictions.csv: path, label and its name, and the five most probable classes with probabilities."""
        ranks = range(1, self.top.shape[1] + 1)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            columns = [column for rank in ranks for column in (f"class{rank}", f"name{rank}", f"probability{rank}")]
            writer.writerow(["path", "label", "label_name", "right", *columns])
            for row, index in enumerate(self.indices):
                label = self.labels[row]
                cells = [
                    cell
                    for k, prob in zip(self.top[row], self.top_probs[row], strict=True)
                    for cell in (self.classes[k], self.names[k], f"{prob:.6f}")
                ]
                known = [self.classes[label], self.names[label], int(self.right[row])]
                writer.writerow([self.split.path(int(index)), *known, *cells])

    def write_confusions(self, folder: Path) -> None:
        """Write the counts of true and predicted classes: confusion.csv, a row for each true class, confusion.json."""
        with (folder / COUNTS_CSV).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["true class", *self.classes])
            writer.writerows([name, *row] for name, row in zip(self.classes, self.counts.tolist(), strict=True))
        counts = {"classes": self.classes, "names": self.names, "counts": self.counts.tolist()}
        (folder / COUNTS_JSON).write_text(json.dumps(counts) + "\n")

    def calibration_picture(self) -> Any:
        """Return the reliability diagram."""
        return draw_calibration(self.calibration, error=calibration_error(self.calibration))

    def worst_picture(self, most: int) -> Any:
        """Return a picture of the worst mistakes, or None if there are none."""
        items = []
        for row in self.worst(most):
            index, label = int(self.indices[row]), self.labels[row]
            own = float(self.predictions.log_probs[row, label].exp())
            items.append(
                CaptionedImage(
                    pixels_of(self.split, index),
                    [
                        (f"{self.names[self.top[row, 0]]} {100 * self.top_probs[row, 0]:.0f} %", False),
                        (f"is {self.names[label]} {100 * own:.0f} %", True),
                        (Path(self.split.path(index)).name, None),
                    ],
                )
            )
        return contact_sheet(items) if items else None

    def results(self, *, num_worst: int) -> dict[str, Any]:
        """Return what results.json holds."""
        return {
            **scores_dict(self.scores),
            "intervals_95": self.intervals(),
            "unreadable": len(self.split) - len(self.indices),
            "averages": self.class_scores.averages(),
            "calibration": {
                "expected_error": calibration_error(self.calibration),
                "bins": [one._asdict() for one in self.calibration],
            },
            "per_class": self.per_class(),
            "most_confused": self.most_confused(),
            "worst": [
                {
                    "path": self.split.path(int(self.indices[row])),
                    "true": self.names[self.labels[row]],
                    "predicted": self.names[self.top[row, 0]],
                    "probability": float(self.top_probs[row, 0]),
                }
                for row in self.worst(num_worst)
            ],
        }

    def table(self) -> str:
        """Return the scores, those of the classes, and the most confused pairs, for the terminal."""
        lines = [str(self.scores), f"images   {len(self.indices):,}"]
        if interval := self.intervals().get("top1"):
            lines.append(
                f"right    {interval[0]:.2f} to {interval[1]:.2f} % (95 % interval, bootstrap over the images)"
            )
        lines.append(f"expected calibration error {calibration_error(self.calibration):.2f} %")
        if missing := len(self.split) - len(self.indices):
            lines.append(f"         {missing:,} more could not be read")
        classes = self.per_class()
        if len(classes) > MOST_SHOWN:
            for head, rows in (("worst", classes[:5]), ("best", classes[:-4:-1])):
                shown = ", ".join(f"{row['name']} {row['recall']:.0f} %" for row in rows)
                lines.append(f"{head:<8} {shown}")
        if len(classes) > 1:
            lines += class_table(self.class_scores, self.names)
        for number, pair in enumerate(self.most_confused(5)):
            head = "confused" if number == 0 else ""
            lines.append(f"{head:<8} {pair['true']} taken for {pair['predicted']}: {pair['images']}")
        return "\n".join(lines)


def scores_dict(scores: Scores) -> dict[str, Any]:
    """Return the scores as results.json has them."""
    return {**scores.values(), "num_images": scores.num_images}


def pixels_of(split: Split, index: int) -> np.ndarray:
    """Return the whole image (H, W, C) to show; black if it cannot be decoded."""
    try:
        return split.pixels(index, 3)
    except BadImageError:
        return np.zeros((64, 64, 3), np.uint8)


def real_labels(file: Path, split: Split, num_classes: int) -> list[list[int]]:
    """Return ReaL labels: for each image of `split` the classes that people saw in it, possibly none.

    Beyer et al. 2020, "Are we done with ImageNet?". `file` is their real.json: for each validation image, in the order
    of the numbers in their names, a list of class indices.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not lists of class indices, or all of them empty, or of another length than the set; images without
            numbers in their names.
    """
    if not file.is_file():
        raise FileNotFoundError(f"real={file}: there is no such file; the authors publish it as real.json")
    try:
        labels = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"real={file} is not JSON: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(entry, list) for entry in labels):
        raise ValueError(f"real={file} is not a list of lists of class indices")
    odd = [k for entry in labels for k in entry if not isinstance(k, int) or not 0 <= k < num_classes]
    if odd:
        raise ValueError(
            f"real={file} has {odd[0]!r}, which is no class index; the network knows 0 to {num_classes - 1}"
        )
    if len(labels) != len(split):
        raise ValueError(
            f"real={file} has labels of {len(labels):,} images, but the set has {len(split):,}; "
            "it is for ImageNet's whole validation set"
        )
    if not any(labels):
        raise ValueError(f"real={file} has no class for any image; the authors publish it as real.json")
    of_images = []
    for index in range(len(split)):
        number = validation_number(split.path(index))
        if number is None or not 1 <= number <= len(labels):
            raise ValueError(
                f"real={file}: {split.path(index)} has no number as ILSVRC2012_val_00000001.JPEG, so its labels are "
                "not known"
            )
        of_images.append(labels[number - 1])
    return of_images


def real_accuracy(report: Report, labels: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Return the share of images whose most probable class is among those that people saw in the image.

    Images in which people saw no class do not count.

    Returns:
        The accuracy in percent, and the number of images that count.
    """
    pairs = [(report.top[row, 0], labels[index]) for row, index in enumerate(report.indices) if labels[index]]
    return 100 * sum(int(guess) in own for guess, own in pairs) / max(1, len(pairs)), len(pairs)
