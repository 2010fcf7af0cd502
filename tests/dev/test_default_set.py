"""scripts/dev/default_set.py: the README's table is made of finished runs, and nothing else of the file changes."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/dev/default_set.py"


def run(*words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def finished_run(run_dir: Path) -> None:
    run_dir.mkdir(parents=True)
    (run_dir / "results.json").write_text(json.dumps({"val_top1": 93.44, "seconds": 125.2}))
    (run_dir / "config.json").write_text(json.dumps({"image_size": 32}))
    (run_dir / "metrics.csv").write_text("epoch,step,lr\n1,20,0.01\n1,40,0.01\n2,60,0.001\n")


def test_a_finished_run_gives_a_row_between_the_marks(tmp_path, monkeypatch, capsys) -> None:
    finished_run(tmp_path / "runs/vgg16")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- default set -->\nold\n<!-- /default set -->\nafter\n")
    run("vgg16", f"--out={tmp_path / 'runs'}", f"--write={page}", monkeypatch=monkeypatch)
    text = page.read_text()
    assert text.startswith("before\n<!-- default set -->\n| command |")
    assert text.endswith("|\n<!-- /default set -->\nafter\n")
    assert "| `python train.py model=vgg16` | 32 px | 0.01 → 0.001 | 93.4 % | 2:05 |" in text
    assert "old" not in text
    assert "model=vgg16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["vgg17"], "no network vgg17; there are lenet5, alexnet"),
        (["vgg16", "--write={page}"], "lacks the marks <!-- default set --> and"),
    ],
)
def test_a_mistake_ends_before_anything_is_trained(words, error, tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "README.md"
    page.write_text("no marks\n")
    with pytest.raises(SystemExit, match="2"):
        run(*(word.format(page=page) for word in words), monkeypatch=monkeypatch)
    assert error in capsys.readouterr().err
