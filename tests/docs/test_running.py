"""Every command of the pages that can run here runs, in the order of its page, on small data and for two steps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.data.sets import wnids

from .pages import PAGES, Command, commands_of, small_words

pytestmark = pytest.mark.e2e

# One process runs all commands of a page, as Python and torch take seconds to start.
DRIVER = """
import contextlib, glob, io, json, os, sys, traceback
from imgcls.commands import main

answers = []
for program, *words in json.load(sys.stdin):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            if program == "cd":
                os.chdir(words[0])
            else:
                sys.argv = ["imgcls", program, *(name for word in words for name in (glob.glob(word) or [word]))]
                main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc(file=out)
            code = -1
    answers.append([code, out.getvalue()[-3000:]])
json.dump(answers, sys.__stdout__)
"""
WNIDS = wnids()[:3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: photos, /data, /my/photos, and runs of ResNet-18 on them."""
    home = tmp_path_factory.mktemp("home")
    draws = np.random.default_rng(0)

    def photo(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(path, quality=80)

    labels = ["ImageId,PredictionString"]
    for folder, names in (("my/photos", ("cat", "dog", "owl")), ("data/imagenet", WNIDS)):
        for place in range(24):
            photo(home / folder / "train" / names[place % 3] / f"{place}.JPEG")
        for place in range(9):
            name, image = names[place % 3], f"ILSVRC2012_val_{place + 1:08}"
            photo(home / folder / "val" / name / f"{image}.JPEG")
            labels += [f"{image},{name} 1 1 2 2"] if name in WNIDS else []
    (home / "jobs.csv").write_text("model,optimizer.lr,recipe\nresnet18,0.05,\nalexnet,,modern\n")  # of sweeps.md
    (home / "LOC_val_solution.csv").write_text("\n".join(labels) + "\n")
    for name in ("photo.jpg", "photos/1.jpg", "photos/2.jpg"):
        photo(home / name)
    words = ["model=resnet18", "data=folder", "data.root=/my/photos"]
    runs = [
        Command("", "", "train", (*words, f"seed={seed}", f"hydra.run.dir=runs/{name}"), ours=True)
        for seed, name in enumerate("xab")
    ]
    for code, text in run(home, [[command.program, *small_words(command)] for command in runs]):
        assert code == 0, text
    for name in ("a", "b"):
        shutil.copy(home / "runs" / name / "best.pt", home / f"{name}.pt")
    return home


def run(home: Path, commands: list[list[str]]) -> list[tuple[int, str]]:
    """Run commands in `home` and return the exit code and the output of each."""
    places = {"/data/": f"{home}/data/", "/my/photos": f"{home}/my/photos", "=DIR": f"={home}/data/imagenet"}

    def here(word: str) -> str:
        for place, path in places.items():
            word = word.replace(place, path)
        return f"{home}/{word}" if word == "photo.jpg" else word  # a page may have gone to another folder

    text = json.dumps([[program, *map(here, words)] for program, *words in commands])
    environment = {**os.environ, "IMGCLS_CACHE": str(home.parent / "docs-cache"), "COLUMNS": "100"}
    driver = [sys.executable, "-c", DRIVER]
    done = subprocess.run(driver, cwd=home, env=environment, input=text, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [(code, output) for code, output in json.loads(done.stdout)]


def runnable(page: Path) -> list[Command]:
    """The commands of a page that can run here, and the `cd` between them, each once."""
    return [
        command for command in dict.fromkeys(commands_of(page)) if command.program == "cd" or command.not_here is None
    ]


# Pages whose commands need runs, weights and sets that `home` does not make yet: test_commands.py composes them.
COMPOSED_ONLY = ("continue.md", "data.md", "imagenet.md", "own-data.md", "quickstart.md", "results.md", "weights.md")
RUN = [page for page in PAGES if runnable(page) and page.name not in COMPOSED_ONLY]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    commands = runnable(page)
    answers = run(tmp_path / "home", [[command.program, *small_words(command)] for command in commands])
    shutil.rmtree(tmp_path / "home")  # checkpoints of VGG have 1 GB
    failed = [f"{command.line}\n{text}" for command, (code, text) in zip(commands, answers, strict=True) if code != 0]
    assert not failed, "\n\n".join(failed)
