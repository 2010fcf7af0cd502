"""Every command of the pages that can run here runs, in the order of its page, on small data and for two steps.

IMGCLS_DOCS_PYTHON is a command that starts another Python for them, such as that of a container.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgcls.config.command_line import compose_run

from .pages import PAGES, Command, commands_of, small_words
from .small import copy_weights, first_runs, write_home

pytestmark = pytest.mark.e2e

PYTHON = shlex.split(os.environ.get("IMGCLS_DOCS_PYTHON", shlex.quote(sys.executable)))
# One process imports torch and timm, which takes seconds, and forks for each page, which so leaves nothing to the next.
DRIVER = """
import contextlib, glob, io, json, os, pathlib, shutil, signal, sys, traceback
from imgcls.commands import main
import imgcls.training, imgcls.evaluation, torch
with contextlib.suppress(ImportError):  # an extra
    import timm

def run(program, words):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            if program == "cd":
                os.chdir(words[0])
            elif program == "cp":
                shutil.copytree(words[-2], words[-1])
            else:
                sys.argv = ["imgcls", program, *(name for word in words for name in (glob.glob(word) or [word]))]
                main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc(file=out)
            code = -1
    for file in pathlib.Path().rglob("*.pt"):
        if file.stat().st_size > 300e6:  # those of VGG have 1 GB, and no later command reads them
            file.unlink()
    return code, out.getvalue()[-3000:]

os.fsync = lambda file: None  # nothing here has to outlive a power cut, and VGG's checkpoints have gigabytes
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a command starts writes there too
for line in sys.stdin:
    home, commands = json.loads(line)
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            print(json.dumps([[status, "the process of this page ended"]] * len(commands)), file=answers, flush=True)
        continue
    signal.alarm(600)
    sys.stdin = open(os.devnull)  # in its place a command may set an encoding, before anything is read
    os.chdir(home)
    print(json.dumps([run(program, words) for program, *words in commands]), file=answers, flush=True)
    os._exit(0)
"""

Answers = list[tuple[int, str]]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process that runs the commands."""
    folder = tmp_path_factory.mktemp("driver")
    environment = {**os.environ, "IMGCLS_CACHE": str(folder / "docs-cache"), "COLUMNS": "100"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*PYTHON, "-c", DRIVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as driver,
    ):
        yield driver


@pytest.fixture(scope="module")
def home(driver: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name."""
    home = tmp_path_factory.mktemp("home")
    write_home(home)
    for code, text in run(driver, home, [[command.program, *small_words(command)] for command in first_runs()]):
        assert code == 0, text
    copy_weights(home)
    return home


def run(driver: subprocess.Popen[str], home: Path, commands: list[list[str]]) -> Answers:
    """Run commands in `home` and return the exit code and the output of each."""
    places = {"/data/": f"{home}/data/", "/my/": f"{home}/my/", "=DIR": f"={home}/data/imagenet"}

    def here(word: str) -> str:
        for place, path in places.items():
            word = word.replace(place, path)
        return f"{home}/{word}" if word == "photo.jpg" else word  # a page may have gone to another folder

    assert driver.stdin
    assert driver.stdout
    print(
        json.dumps([str(home), [[program, *map(here, words)] for program, *words in commands]]),
        file=driver.stdin,
        flush=True,
    )
    line = driver.stdout.readline()
    assert line, "the process that runs the commands has ended; its log is beside its cache"
    return [(code, output) for code, output in json.loads(line)]


def runnable(page: Path) -> list[Command]:
    """The commands of a page that can run here, and the `cd` and `cp` between them.

    What an earlier page runs is left out, unless this one names the run's directory.
    """
    earlier = {command.words for other in PAGES[: PAGES.index(page)] for command in commands_of(other)}
    commands = []
    for command in dict.fromkeys(commands_of(page)):
        ran_before = command.words in earlier and _run_name(command) not in page.read_text()
        if command.program in ("cd", "cp") or (command.not_here is None and not ran_before):
            commands.append(command)
    return commands


def _run_name(command: Command) -> str:
    """The directory of a command's run, as a page may name it."""
    return str(compose_run(list(command.words))[1]) if command.program == "train" and "-m" not in command.words else "?"


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, driver: subprocess.Popen[str], home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    commands = runnable(page)
    answers = run(driver, tmp_path / "home", [[command.program, *small_words(command)] for command in commands])
    shutil.rmtree(tmp_path / "home")
    failed = [f"{command.line}\n{text}" for command, (code, text) in zip(commands, answers, strict=True) if code != 0]
    assert not failed, "\n\n".join(failed)
