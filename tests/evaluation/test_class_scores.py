"""Scores of the classes and of the confidence, against numbers counted by hand."""

import numpy as np
import pytest

from imgcls.evaluation.calibration import calibration_bins, calibration_error
from imgcls.evaluation.class_scores import class_scores, class_table

# Rows are the true class: 10 cats, of which 8 are known, 4 dogs, 1 fox, which is never named, and no hen.
COUNTS = np.array([[8, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])


def test_precision_recall_and_f1_are_those_of_a_hand_count() -> None:
    scores = class_scores(COUNTS)
    assert scores.of(0) == pytest.approx({"precision": 100 * 8 / 9, "recall": 80, "f1": 100 * 16 / 19, "images": 10})
    assert scores.of(1) == pytest.approx({"precision": 60, "recall": 75, "f1": 100 * 6 / 9, "images": 4})
    assert scores.of(2) == {"precision": 0, "recall": 0, "f1": 0, "images": 1}
    assert scores.of(3) == {"precision": 0, "recall": 0, "f1": 0, "images": 0}


def test_means_are_over_the_classes_that_have_images_or_over_the_images() -> None:
    means = class_scores(COUNTS).averages()
    assert means["macro"]["recall"] == pytest.approx((80 + 75 + 0) / 3)
    assert means["weighted"]["recall"] == pytest.approx(100 * 11 / 15)  # the accuracy
    assert means["macro"]["precision"] == pytest.approx((800 / 9 + 60) / 3)
    assert means["weighted"]["f1"] == pytest.approx((10 * 1600 / 19 + 4 * 600 / 9) / 15)


def test_the_table_has_a_row_for_each_class_of_few_and_the_means_of_many() -> None:
    lines = class_table(class_scores(COUNTS), ["cat", "dog", "fox", "hen"])
    assert [line.split()[0] for line in lines] == ["class", "cat", "dog", "fox", "macro", "weighted"]
    assert lines[1].split() == ["cat", "88.89", "80.00", "84.21", "10"]
    many = class_table(class_scores(np.eye(30, dtype=int)), [str(k) for k in range(30)])
    assert [line.split()[0] for line in many] == ["class", "macro", "weighted"]


def test_the_calibration_error_is_the_gap_of_each_bin_by_its_images() -> None:
    confidence = np.array([0.5, 0.5, 1.0, 0.9, 0.91])
    right = np.array([True, False, True, True, False])
    bins = calibration_bins(confidence, right, 10)
    assert [(one.images, one.accuracy) for one in bins if one.images] == [(2, 0.5), (1, 1.0), (2, 0.5)]
    assert bins[0] == (0.0, 0.1, 0, None, None)
    # 0.5 and 0.9 end their bins: each belongs to the bin below it.
    assert calibration_error(bins) == pytest.approx(100 * (2 * 0 + 1 * 0.1 + 2 * (0.955 - 0.5)) / 5)


def test_a_network_that_is_as_often_right_as_it_says_has_no_error() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(size=200_000)
    right = generator.uniform(size=200_000) < confidence
    assert calibration_error(calibration_bins(confidence, right)) < 0.5
    assert calibration_error(calibration_bins(confidence, np.zeros(200_000, bool))) == pytest.approx(50, abs=0.5)
