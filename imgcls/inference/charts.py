"""Charts, drawn by matplotlib, which is imported when one is drawn: curves over epochs, confusions, calibration."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 40  # classes in a confusion matrix whose names can still be read
# Okabe & Ito 2008: colours that people with any kind of colour vision can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLES = ("-", "--", ":")  # of the first six curves, the next six, ...
DOTS_PER_INCH = 100


class Curve(NamedTuple):
    """A named line through the points (x, y); a y that is not finite is left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def draw_curves(panels: Sequence[tuple[str, Sequence[Curve]]], *, x_name: str = "epoch") -> Image.Image:
    """Draw panels of curves side by side, each with its own axes and a legend below them."""
    return _to_image(curves_figure(panels, x_name=x_name))


def curves_figure(panels: Sequence[tuple[str, Sequence[Curve]]], *, x_name: str = "epoch") -> "Figure":
    """Return the figure of `draw_curves`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    num_lines = max((len(lines) for _, lines in panels), default=0)
    # The legend is below the axes, one line a curve: it hides no point.
    figure = Figure(figsize=(6.4 * len(panels), 4.4 + 0.22 * num_lines), dpi=DOTS_PER_INCH, layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set_title(title)
        axes.set_xlabel(x_name)
        axes.grid(alpha=0.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        points = [y for line in lines for y in line.ys if math.isfinite(y)]
        if not points:
            axes.text(0.5, 0.5, "no points yet", ha="center", va="center", transform=axes.transAxes)
            continue
        for number, line in enumerate(lines):
            # A few points are marked, or a curve of one point would not be seen.
            marker = "o" if len(line.xs) <= 30 else ""
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
            axes.plot(line.xs, line.ys, style, label=line.name, color=colour, marker=marker, ms=4)
        axes.set_xlim(left=min(0.0, *(x for line in lines for x in line.xs)))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize="small")
    return figure


def draw_confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draw counts (K, K), rows the true class, columns the predicted one, each row as shares of its class.

    Classes that neither occur nor are predicted are left out; of more than 40 the most confused are drawn.
    """
    return _to_image(confusion_figure(counts, names))


def confusion_figure(counts: np.ndarray, names: Sequence[str]) -> "Figure":
    """Return the figure of `draw_confusion_matrix`."""
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = most_confused(counts, MOST_NAMED)
    all_shown = len(shown) == np.count_nonzero(_occurring(counts))
    counts, shares = counts[np.ix_(shown, shown)], shares[np.ix_(shown, shown)]
    num = len(shown)
    figure = Figure(figsize=(10, 10), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    # The square root makes the few confusions visible beside the many hits.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted" if all_shown else "predicted (the most confused classes)")
    axes.set_ylabel("true")
    axes.xaxis.set_label_position("top")
    labels = [names[int(k)] for k in shown]
    size = max(6, min(12, 320 // max(1, num)))
    axes.set_xticks(range(num), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(num), labels, fontsize=size)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    if num <= 20:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[i, j] > 0.25 else "black"
            axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", color=colour, fontsize=size)
    return figure


class CalibrationBin(NamedTuple):
    """The images whose confidence is above `low` and at most `high`; their means are None if there are none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def draw_calibration(bins: Sequence[CalibrationBin], *, error: float) -> Image.Image:
    """Draw the reliability diagram: accuracy by confidence, with the number of images below it.

    Guo et al. 2017, figure 1. A perfectly calibrated network has all bars on the diagonal.

    Args:
        error: the expected calibration error, in percent.
    """
    return _to_image(calibration_figure(bins, error=error))


def calibration_figure(bins: Sequence[CalibrationBin], *, error: float) -> "Figure":
    """Return the figure of `draw_calibration`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), dpi=DOTS_PER_INCH, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    shown = [one for one in bins if one.accuracy is not None and one.confidence is not None]
    left, width = [one.low for one in shown], [one.high - one.low for one in shown]
    accuracy = [one.accuracy or 0.0 for one in shown]
    above.bar(left, accuracy, width, align="edge", color=COLOURS[0], edgecolor="white", label="accuracy")
    above.plot([one.confidence for one in shown], accuracy, "o", ms=3, color=COLOURS[1], label="at the mean confidence")
    above.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    above.set_title(f"expected calibration error {error:.2f} %")
    above.set_ylabel("accuracy")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.legend(loc="upper left", frameon=False, fontsize="small")
    below.bar(left, [one.images for one in shown], width, align="edge", color="grey", edgecolor="white")
    below.set_ylabel("images")
    below.set_xlabel("confidence")
    return figure


def most_confused(counts: np.ndarray, most: int) -> np.ndarray:
    """Return the classes that occur in counts (K, K), ascending.

    If they are more than `most`: the classes of the most frequent confusions, pair by pair.
    """
    occurring = np.flatnonzero(_occurring(counts))
    if len(occurring) <= most:
        return occurring
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    chosen: dict[int, None] = {}
    for place in np.argsort(-(wrong + wrong.T), axis=None, kind="stable"):
        pair = [k for k in divmod(int(place), len(counts)) if k not in chosen]
        if len(chosen) + len(pair) > most or not wrong.flat[place] + wrong.T.flat[place]:
            break
        chosen |= dict.fromkeys(pair)
    # With few or no confusions the other classes follow in their order.
    rest = [int(k) for k in occurring if int(k) not in chosen][: most - len(chosen)]
    return np.array(sorted([*chosen, *rest]))


def _occurring(counts: np.ndarray) -> np.ndarray:
    return (counts.sum(axis=0) + counts.sum(axis=1)) > 0


def _to_image(figure: "Figure") -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
