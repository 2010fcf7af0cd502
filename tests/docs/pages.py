"""The commands of README.md and docs/: which there are, whether each is valid, and which run on small data.

A command that is neither ours nor listed in OTHERS is refused.
"""

import argparse
import fnmatch
import importlib
import itertools
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from config_files import files_of, recipe_facts
from omegaconf import flag_override

from imgcls.commands import COMMANDS
from imgcls.config import Config, EvaluateConfig, compose_network
from imgcls.config.checks import check_source
from imgcls.config.command_line import compose_run, plain_words
from imgcls.config.compose import check_choices, register, to_config
from imgcls.config.hydra_internals import compose_whole, compose_within_main, parse_overrides, read_words
from imgcls.config.messages import COMPOSITION_ERRORS, one_line
from imgcls.config.words import split_network
from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LANGUAGES = ("bash", "console", "sh", "shell", "slurm")

# Programs that are not ours, and shell words; what can be checked of them without running them is in `_check_other`.
OTHERS = {
    "pip",
    "uv",
    "uvx",
    "docker",
    "tensorboard",
    "cd",
    "cp",
    "export",
    "scontrol",
    "sbatch",
    "head",
    "[",
    "}",
    ".ci/run",
}
# Commands that take train.py's words.
OF_A_RUN = {"doctor", "verify_data"}
# What stands before a command of ours.
LAUNCHERS = {"srun", "time", "nohup", "{"}
DOWNLOADS = {
    f"data={name}" for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "imagenette")
}
# Settings of networks from outside that download their weights.
PUBLISHED = ("model.weights=", "model.pretrained=true")


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Args:
        program: the name of a command of imgcls, a script below scripts/dev, `-m MODULE`, or another program.
        ours: it is a command of imgcls; a shell has an `export` too.
        launched: by something that this machine may lack: torchrun, srun, docker.
    """

    page: str
    line: str
    program: str
    words: tuple[str, ...]
    ours: bool = False
    launched: bool = False

    @property
    def name(self) -> str:
        """A name for a test: the page and the command."""
        return f"{self.page}: {self.line}"

    @property
    def not_here(self) -> str | None:
        """Why it cannot run in a test, or None if it can."""
        words = set(self.words)
        if self.launched:
            return "starts several processes, or a container"
        if words & DOWNLOADS or any(
            word.startswith(("weights=torchvision", "data.name=", *PUBLISHED)) for word in words
        ):
            return "downloads"
        if any(word.startswith("data.root=") and "://" in word for word in words):
            return "reads shards of a server"
        if "recipe=finetune" in words and not any(word.startswith("weights=") for word in words):
            return "downloads published weights"
        if not self.ours:
            return "another program, or a benchmark or proof that takes minutes"
        if any(word.startswith("logger=") and ("wandb" in word or "mlflow" in word) for word in words):
            return "logs to a service"
        if "real=real.json" in words:
            return "needs a download"
        return None


class Refused(ValueError):
    """A command of a page that the test does not know."""


def page_text(path: Path) -> str:
    """Return a page with the commands of its generated parts: only recipes have any."""
    text = path.read_text()
    commands = [
        line for group in ("recipe", "experiment") for file in files_of(group) for line in recipe_facts(file)["command"]
    ]
    return text.replace("<!-- generate: recipes -->", "\n".join(["```bash", *commands, "```"]))


def commands_of(path: Path) -> list[Command]:
    """Return the commands in the fences of a page, in their order."""
    commands = []
    for _, language, body in FENCE.findall(page_text(path)):
        if language in LANGUAGES:
            for line in _lines(body, prompt=language == "console"):
                commands += read_line(line, page=path.name)
    return commands


def _lines(body: str, *, prompt: bool) -> Iterator[str]:
    """Yield the commands of a fence; in a session with prompts the other lines are output."""
    lines = [line.strip() for line in body.replace("\\\n", " ").splitlines()]
    if prompt and any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    yield from (line for line in lines if line and not line.startswith("#"))


def read_line(line: str, *, page: str = "") -> list[Command]:
    """Return the commands of one line of a shell, without its operators."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    lexer.commenters = "#" if re.search(r"(^|\s)#", line) else ""
    groups = itertools.groupby(lexer, key=lambda token: bool(set(token) <= set("&|;")))
    return [_command(list(tokens), line, page) for is_operator, tokens in groups if not is_operator]


def _command(tokens: list[str], line: str, page: str) -> Command:
    launched = False
    while tokens and (tokens[0] in LAUNCHERS or re.fullmatch(r"[A-Z_]+=.*", tokens[0])):
        launched = launched or tokens[0] == "srun"
        tokens = tokens[1:]
    if (
        tokens[:2] == ["uv", "run"]
        and len(tokens) > 2
        and (tokens[2].endswith(".py") or tokens[2] in ("python", "imgcls"))
    ):
        tokens = ["python", *tokens[2:]] if tokens[2].endswith(".py") else tokens[2:]
    if tokens[0] == "torchrun":
        start = next(number for number, token in enumerate(tokens) if token == "-m" or token.endswith(".py"))
        tokens, launched = ["python", *tokens[start:]], True
    if tokens[:2] == ["docker", "run"]:
        start = next(number for number, token in enumerate(tokens) if token.startswith("imgcls"))
        tokens, launched = ["imgcls", *tokens[start + 1 :]], True
    program, words, ours = tokens[0], tokens[1:], False
    if program.endswith("python") or program == "python3":
        if words[:1] == ["-m"]:
            ours = words[1] == "imgcls"
            program, words = (words[2], words[3:]) if ours else (f"-m {words[1]}", words[2:])
        else:
            program, words = words[0], words[1:]
            if program == "train.py" or (program.startswith("scripts/") and not program.startswith("scripts/dev/")):
                program, ours = Path(program).stem, True
    elif program == "imgcls":
        program, words, ours = words[0], words[1:], True
    words = ["data.root=/data/imagenet" if word == "data.root=DIR" else word for word in words if word != "..."]
    if ">" in words:
        words = words[: words.index(">")]
    return Command(page, line, program, tuple(words), ours, launched)


def check(command: Command, config_dir: Path) -> None:
    """Check a command without running it: its config is composed, its options are parsed.

    Args:
        config_dir: what `--config-dir conf` means: that of the project that `imgcls init` writes.

    Raises:
        Refused: it is neither ours nor known.
        ValueError: it is ours and not valid.
    """
    program, words = command.program, list(command.words)
    if command.ours and program not in COMMANDS:
        raise Refused(f"{command.name}: {program} is no command of imgcls")
    if "--help" in words or "--version" in words:
        return
    if command.ours and program == "train":
        if "--why" in words:
            del words[words.index("--why") :][:2]
            words = words[: words.index("--why")] if "--why" in words else words
        for job in _jobs(words):
            compose_run(job, config_dir if "--config-dir" in words else None)
    elif command.ours and program == "evaluate":
        _check_evaluate(words)
    elif command.ours:
        _parse(lambda: importlib.import_module(f"imgcls.commands.{program}").main(), program, words)
        network, _ = split_network(words)
        if program in OF_A_RUN:
            compose_run([word for word in words if not word.startswith(("out=", "checksums="))])
        elif network:
            compose_network(network)
    elif program.startswith("scripts/dev/") and (ROOT / program).is_file():
        script = (ROOT / program).with_suffix(".py")  # a .sh is the door to a program of the same name
        options = _parse(lambda: runpy.run_path(str(script), run_name="__main__"), program, words)
        if overrides := getattr(options, "overrides", None):
            compose_run(overrides)
    elif program.startswith("-m ") and importlib.util.find_spec(program.removeprefix("-m ")):
        return
    elif program in OTHERS:
        _check_other(command)
    else:
        raise Refused(f"{command.name}: {program} is no command of imgcls; if it is right, add it to OTHERS")


def _jobs(words: list[str]) -> Iterator[list[str]]:
    """Yield the words of each job of a sweep, or those of the one run."""
    read = read_words(plain_words(words, Config))
    assert not read.refused, read.refused
    choices = []
    for override in parse_overrides(read.overrides):
        line = override.input_line
        swept = override.is_sweep_override() and ("-m" in words or "--multirun" in words)
        key = line.partition("=")[0]
        if key.startswith(("hydra/", "hydra.")):
            continue  # the sweep's, which the sweeper's own tests compose
        if swept and (override.is_interval_sweep() or "glob(" in line):
            continue  # the sweeper chooses the values
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [line])
    yield from map(list, itertools.product(*choices))


def _check_evaluate(words: list[str]) -> None:
    register()
    network, rest = split_network(plain_words(words, EvaluateConfig))
    check_choices(rest)
    try:
        with compose_within_main():
            cfg = compose_whole("evaluate", rest, None)
            with flag_override(cfg, ["readonly", "struct"], False):
                del cfg["hydra"]
            config = to_config(cfg, EvaluateConfig)
    except COMPOSITION_ERRORS as error:
        raise ValueError(one_line(error, EvaluateConfig)) from error
    check_source(config.checkpoints, config.weights, network)
    if network:
        compose_network(network)


class _Parsed(BaseException):
    """Ends a program once its options are parsed."""


def _parse(main: object, program: str, words: list[str]) -> argparse.Namespace:
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, args: list[str] | None = None, namespace: None = None) -> None:
        raise _Parsed(parse_args(parser, args, namespace))

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        mock.patch.object(argparse.ArgumentParser, "parse_intermixed_args", parse_and_stop),
        mock.patch("sys.argv", [program, *words]),
    ):
        try:
            main()  # type: ignore[operator]
        except _Parsed as parsed:
            return parsed.args[0]
        except SystemExit as end:
            raise ValueError(f"{program} {' '.join(words)}: refused with exit code {end.code}") from None
    raise AssertionError(f"{program} parsed no options")


def _check_other(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(project["project"]["optional-dependencies"])
    for named in re.findall(r"(?:imgcls|\.)\[(.*?)\]|--extra (\S+)", command.line):
        for extra in "".join(named).split(","):
            assert extra in extras, f"{command.name}: there is no extra {extra}"
    if command.program == "docker" and "-f" in command.words:
        assert (ROOT / command.words[command.words.index("-f") + 1]).is_file(), command.name
    if command.program == "uv" and "pytest" in command.words and "-m" in command.words:
        markers = " ".join(project["tool"]["pytest"]["ini_options"]["markers"])
        assert f"{command.words[-1]}:" in markers, f"{command.name}: there is no such marker"
    if command.program.startswith("."):
        assert (ROOT / command.program).is_file(), command.name


def small_words(command: Command) -> list[str]:
    """Return a command's words for a run of seconds on a CPU, whose directory is that of the command as it stands."""
    words = list(command.words)
    if command.program == "train":
        return _small_run(words)
    if command.program == "evaluate":
        # A run's checkpoint on its own finds its images only beside the run's results.
        given = any(word.startswith(("data", "checkpoint=runs/mynet")) for word in words)
        return [*words, "device=cpu", "batch_size=8", "logger=none", *([] if given else ["data.root=/my/photos"])]
    if command.program in ("predict", "export", "plot") and any(
        word.startswith(("checkpoint=", "runs/")) for word in words
    ):
        return [*words, "device=cpu"]
    if command.program == "doctor":
        return [*words, "batch_size=8", "image_size=67", "device=cpu", "data.num_threads=1"]
    classes = ["data.num_classes=null"] if "data=imagenet" in words else []
    if command.program == "subset":
        return [*(str(min(int(word), 4)) if word.isdecimal() else word for word in words), *classes]
    if command.program == "pack":
        return [*words, *classes, "--threads", "1"]
    return words


def _small_run(words: list[str]) -> list[str]:
    if "--cfg" in words or "--why" in words or "--info" in words or "--help" in words:
        return words
    # A run that goes on has two steps more than the one before.
    steps = 4 if "continue_run=true" in words else 2
    epochs = [] if any(word.startswith("epochs=") for word in words) else ["epochs=20"]
    tiny = [f"max_steps={steps}", *epochs, "batch_size=8", "microbatch=null", "device=cpu", "logger=none"]
    tiny += ["data.num_classes=null"]  # a handful of ImageNet's thousand
    if not any(word.startswith("data") for word in words):
        tiny.append("data.memorise=16")  # the default sets have thousands of images
    tiny += ["data.num_threads=1", "compile=false", "min_val_top1=null", "checkpoint.every_minutes=1000"]
    if "-m" in words:
        return [*_few_jobs(words), *tiny, "image_size=67"]
    lenet = any(word == "model=lenet5" for word in words)
    config_dir = Path("conf") if "--config-dir" in words else None
    if config_dir is None:
        tiny.append(f"hydra.run.dir={compose_run(words)[1]}")
    sizes = [int(word.partition("=")[2]) for word in words if re.fullmatch(r"image_size=\d+", word)]
    return [*words, *tiny, f"image_size={min([32 if lenet else 67, *sizes])}"]


def _few_jobs(words: list[str]) -> list[str]:
    """Return the words of a sweep with the first value of each list, and the last of one in parallel sweeps."""
    parallel = any(word.startswith(("sweep.jobs=", "hydra/launcher=")) for word in words)
    cut, lists = [], 0
    for word in words:
        word = re.sub(r"range\((\d+),\d+\)", r"\1", word)
        word = re.sub(r"^(\w+)=glob\((.*)\)", lambda match: f"{match[1]}=glob({_first(*match.groups())})", word)
        if match := re.fullmatch(r"([\w./]+=)([^,\[(]+),(?:.*,)?([^,\])]+)", word):
            key, first, last = match.groups()
            word = f"{key}{first},{last}" if parallel and lists == 0 else f"{key}{first}"
            lists += 1
        cut.append(word)
    return cut


def _first(group: str, pattern: str) -> str:
    """Return the first name of a group that fits a pattern."""
    return min(name for name in (file.stem for file in files_of(group)) if fnmatch.fnmatch(name, pattern))
