"""The papers' tables of their networks, from ours, with the published figures beside them.

paper_figures.csv has a row for each published row: the figures as the paper prints them, and what of our network they
are of: layers by their names in `NetworkSummary`, of which poolings are counted, or `model=...`, a whole network.
"""

import csv
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from imgcls.models.summary import Layer, NetworkSummary, summarize_network

FIGURES = Path(__file__).with_name("paper_figures.csv")

COLUMNS = ("output", "parameters", "multiply_adds")


class PaperTable(NamedTuple):
    """A table of a paper.

    Args:
        title, source: what it shows, and where it is published.
        words: of the network whose layers its rows are; empty where each row is a network.
    """

    title: str
    source: str
    words: str = ""


TABLES = {
    "lenet5": PaperTable("LeNet-5, layer by layer", "LeCun et al. 1998, section II.B and figure 2", "lenet5"),
    "alexnet": PaperTable(
        "AlexNet, layer by layer", "the lecture's table; parameters: Krizhevsky et al. 2012", "alexnet"
    ),
    "vgg": PaperTable("VGG, parameters by column", "Simonyan & Zisserman 2014, table 2"),
    "googlenet": PaperTable("GoogLeNet, layer by layer", "Szegedy et al. 2014, table 1", "googlenet"),
    "resnet": PaperTable("ResNet, multiply-adds by depth", "He et al. 2015, table 1, which calls them FLOPs"),
}


class Figures(NamedTuple):
    """A row: its name, what of ours it is of, the published figures as text, and why ours differ."""

    table: str
    row: str
    ours: str
    output: str
    parameters: str
    multiply_adds: str
    note: str


@functools.cache
def published_figures() -> tuple[Figures, ...]:
    """Return the rows of paper_figures.csv."""
    with FIGURES.open(newline="", encoding="utf-8") as file:
        return tuple(Figures(**row) for row in csv.DictReader(file))


def paper_table(name: str) -> str:
    """Return one of TABLES as Markdown, ours and published side by side."""
    table, figures = TABLES[name], [row for row in published_figures() if row.table == name]
    shown = [
        column for column in ("output", "parameters", "multiply_adds") if any(getattr(row, column) for row in figures)
    ]
    titles = [title for column in shown for title in (column.replace("_", "-"), "published")]
    notes = any(row.note for row in figures)
    first = "layer" if table.words else "network"
    lines = [[first, *titles, *(["note"] if notes else [])]]
    for row in figures:
        ours = _ours(row, table)
        cells = [cell for column in shown for cell in (ours[column], getattr(row, column))]
        lines.append([row.row, *cells, *([row.note] if notes else [])])
    aligned = ["---", *["---:"] * len(titles), *(["---"] if notes else [])]
    rows = [f"| {' | '.join(cells)} |" for cells in (lines[0], aligned, *lines[1:])]
    return "\n".join([f"**{table.title}** (published: {table.source})", "", *rows])


def _ours(row: Figures, table: PaperTable) -> dict[str, str]:
    """Return our figures for a row; a layer without weights has none."""
    if row.ours.startswith("model="):
        network = summarize_network(row.ours.removeprefix("model="))
        shape, parameters, multiply_adds = "", network.parameters, network.multiply_adds
    else:
        by_name = named_layers(summarize_network(table.words))
        layers = [by_name[name] for name in row.ours.split()]
        shape = layers[-1].shape_text
        parameters = sum(layer.parameters for layer in layers)
        multiply_adds = sum(layer.multiply_adds for layer in layers)
    return {
        "output": shape,
        "parameters": f"{parameters:,}" if parameters else "",
        "multiply_adds": short_count(multiply_adds) if multiply_adds else "",
    }


def named_layers(network: NetworkSummary) -> dict[str, Layer]:
    """Return the layers by their names; the poolings of functions, which have none, as pooling1, pooling2, ..."""
    poolings = 0
    named = {}
    for layer in network.layers:
        poolings += layer.kind == "Pooling"
        named[f"pooling{poolings}" if layer.kind == "Pooling" else layer.name] = layer
    return named


def short_count(number: int) -> str:
    """Return 15470264320 as `15.47G`, 128049152 as `128M`."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= scale:
            value = number / scale
            return f"{value:.{2 if value < 10 and unit != 'K' else 1 if value < 100 else 0}f}{unit}"
    return str(number)


def paper_tables(names: Iterable[str] = ()) -> str:
    """Return the tables of these names, or all of them, as Markdown."""
    return "\n\n".join(paper_table(name) for name in names or TABLES)
