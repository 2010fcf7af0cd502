"""The papers' tables, counted on our networks, agree with what is published."""

import pytest

from imgcls.commands.paper_tables import NAMES, show
from imgcls.models import TABLES, named_layers, paper_table, published_figures, summarize_network

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


def number(text: str) -> float:
    plain = text.replace(",", "")
    return float(plain.rstrip("KMG")) * UNITS.get(plain[-1], 1.0)


@pytest.mark.e2e
def test_each_published_row_agrees_or_says_why_not() -> None:
    for figures in published_figures():
        words = TABLES[figures.table].words
        if figures.ours.startswith("model="):
            network = summarize_network(figures.ours.removeprefix("model="))
            parameters, multiply_adds = network.parameters, network.multiply_adds
        else:
            layers = [named_layers(summarize_network(words))[name] for name in figures.ours.split()]
            assert layers[-1].shape_text == figures.output, figures
            parameters = sum(layer.parameters for layer in layers)
            multiply_adds = sum(layer.multiply_adds for layer in layers)
        for published, ours in ((figures.parameters, parameters), (figures.multiply_adds, multiply_adds)):
            if published and not figures.note:
                # GoogLeNet's K are 1,024, and its widths of a row are rounded.
                assert ours == pytest.approx(number(published), rel=0.05), figures


def test_every_table_of_the_command_is_there_and_each_row_has_ours_and_theirs() -> None:
    assert tuple(TABLES) == NAMES
    lines = paper_table("vgg").splitlines()
    assert lines[2] == "| network | parameters | published |"
    assert "| E | 143,667,240 | 144M |" in lines
    assert "| MAX POOL3 | 6×6×256 | 6×6×256 |" in paper_table("alexnet")


def test_a_wrong_name_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["paper_tables.py", "vgh"])
    with pytest.raises(ValueError, match=r"vgh is none of .* \(did you mean vgg\?\)"):
        show()
