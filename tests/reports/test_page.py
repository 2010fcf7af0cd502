"""A page of runs is one file that loads nothing, and shows tables, curves, commands and failures."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from imgcls.environment import CONF_DIR
from imgcls.reports import report_page
from imgcls.reports.chart import Line, svg_chart
from imgcls.runs import find_runs, note_failure, row_of


def write_run(path: Path, *, lr: float, seed: int, top1: float | None, name: str = "digits") -> None:
    path.mkdir(parents=True)
    config = {"data.name": name, "optimizer.lr": lr, "seed": seed, "epochs": 2, "batch_size": 18}
    (path / "config.json").write_text(json.dumps(config))
    lines = ["epoch,step,lr,val/loss,val/top1", f"1,5,{lr},2.0,{40 + seed}", f"2,10,{lr},1.0,{50 + seed}"]
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    start = {
        "words": ["model=lenet5", f"optimizer.lr={lr}", "name=a b"],
        "device": "cpu",
        "packages": {"torch": "2.15"},
    }
    (path / "capsule.json").write_text(json.dumps({"starts": [start]}))
    if top1 is not None:
        numbers = {"val_top1": top1, "best_epoch": 2, "epochs": 2, "steps": 10, "seconds": 9.0, "data": {"classes": 10}}
        (path / "results.json").write_text(json.dumps(numbers))


@pytest.fixture
def page(tmp_path: Path) -> str:
    for seed in (1, 2):
        write_run(tmp_path / f"a{seed}", lr=0.1, seed=seed, top1=50.0 + seed)
    write_run(tmp_path / "<b>", lr=0.2, seed=1, top1=None)
    note_failure(tmp_path / "<b>", "the loss is <nan>")
    write_run(tmp_path / "c", lr=0.1, seed=1, top1=90.0, name="mnist")
    Image.new("RGB", (4, 4)).save(tmp_path / "c/curves.png")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/config.json").write_text("{")
    return report_page((row_of(run) for run in find_runs([tmp_path])), title="Mine & yours")


def test_a_finished_run_says_how_fast_it_was(page: str) -> None:
    assert page.count("10 steps of 18 images in 0:09, 20 images/s with the validation") == 3


class Tags(HTMLParser):
    """The tags that are open, and every address that is named."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "path", "polyline", "polygon", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline", "polygon", "circle"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.addresses) == 1
    assert tags.addresses[0].startswith("data:image/png;base64,")
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)


def test_names_and_errors_from_elsewhere_are_text_and_no_tags(page: str) -> None:
    assert "<h1>Mine &amp; yours</h1>" in page
    assert "failed: the loss is &lt;nan&gt;" in page
    assert "<nan>" not in page
    assert "<b>" not in page


def test_each_data_set_has_its_table_its_curves_and_each_run_its_command(page: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", page) == ["digits", "mnist", "unknown data"]
    assert page.count("<figcaption>validation top-1, %</figcaption>") == 2
    assert "and 1 more: mean, least and most over the seeds" in page
    assert page.count("train model=lenet5 optimizer.lr=0.1 &#x27;name=a b&#x27;</pre>") == 3
    assert "config.json is damaged" in page


def test_seeds_are_a_band_around_their_mean() -> None:
    chart = svg_chart("x", [Line("a", [0, 10], [1.0, 3.0], [0.0, 2.0], [2.0, 4.0])])
    (band,) = re.findall('<polygon points="(.*?)"', chart)
    (line,) = re.findall('<polyline points="(.*?)"', chart)
    xs = [float(point.split(",")[0]) for point in line.split()]
    downs = [float(point.split(",")[1]) for point in line.split()]
    assert xs == [52, 548]
    assert downs[1] < downs[0]  # larger values are higher up
    assert len(band.split()) == 4
    assert "<polygon" not in svg_chart("x", [Line("a", [0, 1], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])])


def test_a_chart_without_a_finite_value_is_left_out() -> None:
    nan = float("nan")
    assert svg_chart("x", []) == svg_chart("x", [Line("a", [1], [nan], [nan], [nan])]) == ""
    assert "<polyline" in svg_chart("x", [Line("a", [1, 2], [nan, 1.0], [nan, 1.0], [nan, 1.0])])


def test_the_command_writes_the_page_and_imports_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", lr=0.1, seed=1, top1=50.0)
    script = str(CONF_DIR.parent / "scripts/report.py")
    command = [sys.executable, "-X", "importtime", script, "out=b/report.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "b/report.html\n")
    assert "<h2>digits</h2>" in (tmp_path / "b/report.html").read_text()
    assert "| torch" not in done.stderr.replace("|   ", "| ")
    empty = subprocess.run([sys.executable, script, str(tmp_path / "b")], cwd=tmp_path, capture_output=True, text=True)
    assert (empty.returncode, empty.stderr) == (2, "error: there are no runs there to report on\n")
