"""Charts show what they are given: the numbers are read back from matplotlib's own objects."""

import numpy as np
import pytest

from imgcls.inference.charts import (
    Curve,
    confusion_figure,
    curves_figure,
    draw_confusion_matrix,
    draw_curves,
    most_confused,
)


def test_a_confusion_matrix_shows_shares_of_each_true_class_and_writes_its_counts() -> None:
    (axes,) = confusion_figure(np.array([[9, 1], [0, 10]]), ["cat", "dog"]).axes
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(np.sqrt([[0.9, 0.1], [0, 1]]))
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "9"),
        ((1, 0), "1"),
        ((1, 1), "10"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")


def test_a_confusion_matrix_is_dark_where_its_counts_are() -> None:
    picture = np.asarray(draw_confusion_matrix(np.array([[10, 0], [0, 10]]), ["a", "b"])).astype(int)
    height, width = picture.shape[:2]
    quarters = [picture[height // 4 + y, width // 4 + x].sum() for y in (0, height // 2) for x in (0, width // 2)]
    assert quarters[0] < quarters[1]
    assert quarters[3] < quarters[2]


@pytest.mark.parametrize("num", [3, 30, 1000])
def test_confusion_matrices_of_any_size_can_be_drawn(num: int) -> None:
    image = draw_confusion_matrix(np.eye(num, dtype=np.int64), [f"class number {k}" for k in range(num)])
    assert image.size == (1000, 1000)


def test_of_many_classes_the_most_confused_are_drawn() -> None:
    counts = np.zeros((1000, 1000), np.int64)
    counts[np.arange(500), np.arange(500)] = 50
    counts[7, 900] = 9
    counts[400, 12] = 8
    assert most_confused(counts, 5).tolist() == [0, 7, 12, 400, 900]
    few = np.zeros((1000, 1000), np.int64)
    few[3, 3], few[5, 8] = 4, 1
    assert most_confused(few, 40).tolist() == [3, 5, 8]
    (axes,) = confusion_figure(few, [f"class {k}" for k in range(1000)]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["class 3", "class 5", "class 8"]
    (axes,) = confusion_figure(counts, [f"class {k}" for k in range(1000)]).axes
    assert axes.get_xlabel() == "predicted (the most confused classes)"


def test_curves_run_through_their_points_with_a_legend_below_the_axes() -> None:
    line = Curve("one", [1, 2, 3], [1.0, float("nan"), 3.0])
    figure = curves_figure([("title", [line]), ("empty", [])])
    drawn, empty = figure.axes
    assert drawn.lines[0].get_xydata() == pytest.approx(np.array([[1, 1], [2, np.nan], [3, 3]]), nan_ok=True)
    assert (drawn.get_title(), drawn.get_xlabel()) == ("title", "epoch")
    assert [text.get_text() for text in empty.texts] == ["no points yet"]
    figure.canvas.draw()
    legend = drawn.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["one"]
    assert legend.get_window_extent().y1 <= drawn.get_window_extent().y0


def test_more_curves_than_colours_differ_in_their_lines() -> None:
    (axes,) = curves_figure([("title", [Curve(str(k), [1, 2], [1, k]) for k in range(14)])]).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 14


def test_the_same_curves_give_the_same_picture() -> None:
    panels = [("loss", [Curve("a", [1, 2], [2.0, 1.0])])]
    assert np.array_equal(np.asarray(draw_curves(panels)), np.asarray(draw_curves(panels)))
