"""Every command of the pages is valid: a key that is renamed breaks the page that names it."""

from pathlib import Path

import pytest

from imgcls.commands.init import write_project

from .pages import FENCE, LANGUAGES, PAGES, Command, Refused, check, commands_of, page_text, read_line

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))
# Of commands that only say how to install, build or look, one line for each page.
BENCHMARKS = [command for command in COMMANDS if command.program.startswith("scripts/dev/")]


@pytest.fixture(scope="module")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configs of the project that `imgcls init` writes."""
    folder = tmp_path_factory.mktemp("project") / "mine"
    write_project(folder)
    return folder / "conf"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in BENCHMARKS], ids=lambda command: command.name)
def test_a_command_of_the_pages_is_valid(command: Command, config_dir: Path) -> None:
    check(command, config_dir)


@pytest.mark.e2e  # they import torch first
@pytest.mark.parametrize("command", BENCHMARKS, ids=lambda command: command.name)
def test_a_benchmark_of_the_pages_is_valid(command: Command, config_dir: Path) -> None:
    check(command, config_dir)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_command_outside_a_fence_that_is_read(page: Path) -> None:
    fences = [(language, body) for _, language, body in FENCE.findall(page_text(page))]
    stray = [body for language, body in fences if language not in (*LANGUAGES, "text", "yaml", "python", "toml")]
    assert not [body for body in stray if "train.py" in body or "imgcls " in body]


@pytest.mark.parametrize(
    "line",
    [
        "python train.py modle=vgg16",
        "python train.py optimizer.lrr=3",
        "python train.py -m model=vgg16,vgg61",
        "uv run train.py model=vgg61",
        "imgcls train --config-dir conf experiment=yours",
        "torchrun --nproc-per-node=8 train.py batch_sise=3",
        "docker run --gpus all imgcls:cuda train model=resnet05",
        "srun python train.py epocs=3 || true",
        "python scripts/evaluate.py checkpoint=a.pt protocol=tencrop",
        "python scripts/evaluate.py model=resnet05 weights=torchvision",
        "python scripts/predict.py checkpoint=a.pt photo.jpg --formt json",
        "python scripts/export.py checkpoint=a.pt",
        "python scripts/pack.py /data --longst 3 a.pack",
        "python scripts/dev/benchmark.py loeder",
        "python scripts/dev/nothing.py",
        "python scripts/nothing.py",
        "python -m imgcls.nothing build",
        "imgcls trian",
        "uv run --extra dosc mkdocs build",
        "uv run pytest -m quick",
        "docker build -f containers/gpu.Dockerfile .",
        "curl example.org",
        "pip install uv && rm -rf /",
    ],
)
def test_a_command_that_is_wrong_or_unknown_is_refused(line: str, config_dir: Path) -> None:
    def check_all() -> None:
        for command in read_line(line):
            check(command, config_dir)

    with pytest.raises((Refused, ValueError, AssertionError)):
        check_all()
