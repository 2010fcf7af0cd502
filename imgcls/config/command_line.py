"""Command lines that Hydra composes a config from: train.py's and evaluate.py's."""

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, flag_override

from imgcls import __version__
from imgcls.config.checks import check_crop, check_source
from imgcls.config.compose import AnyConfig, check_choices, compose_network, help_text, register, to_config
from imgcls.config.hydra_internals import compose_whole, compose_within_main, hydra_options, read_words, run_main
from imgcls.config.messages import COMPOSITION_ERRORS, one_line
from imgcls.config.own_packages import trust_packages
from imgcls.config.schema import Config, EvaluateConfig
from imgcls.config.settings import check_rules, settings_of
from imgcls.config.sweep import Sweep, read_sweep
from imgcls.config.why import split_why, why
from imgcls.config.words import is_crop_word, is_interpolation_word, quote_path, split_network, without_dashes
from imgcls.environment import CONF_DIR, launch, printable
from imgcls.errors import (
    EXIT_INTERRUPTED,
    EXIT_USER_MISTAKE,
    ConfigError,
    did_you_mean,
    exit_code_of,
    is_reported,
    quiet_without_reader,
)

# Options, most of them Hydra's, that show something instead of a run.
SHOWING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--why"}


@contextmanager
def _end_of_a_rank() -> Iterator[None]:
    """End the process of a rank with its exit code as soon as its work is done, without Python's finalization.

    A thread of torch's gloo that asks for an interpreter which is going aborts the process ("terminate called without
    an active exception"): a run that had ended well would end with a failure, and torchrun would stop its other ranks.
    """
    place = launch()
    if place is None or place[1] == 1:
        yield
        return
    signal.signal(signal.SIGTERM, _end_after_the_report)
    code = 0
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            raise
        code = stop.code or 0
    atexit._run_exitfuncs()  # they close the log as well
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_after_the_report(number: int, frame: FrameType | None) -> None:
    """End by the signal, unless this rank is ending with an error: torchrun ends a lost rank's others within 0.1 s."""
    del frame
    if sys.exc_info()[0] is None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@_end_of_a_rank()
def command_line(
    task: Callable[[AnyConfig, Path], None],
    *,
    config_name: str = "config",
    kind: type[AnyConfig] = Config,
    sweep: Callable[[Sweep], int] | None = None,
) -> None:
    """Run `task(config, run_dir)` on the config that sys.argv describes, or `sweep` on the jobs of a `-m`.

    A user's mistake ends with one line and exit code 2, without a traceback; an exception with an `exit_code` ends
    with its text and that code.

    Args:
        config_name: the file in conf/ whose schema is `kind`.
        sweep: runs a sweep and returns the exit code; None for a command that has no sweeps.
    """
    network: list[str] = []

    def job(cfg: DictConfig) -> None:
        hydra = HydraConfig.get()
        with _nothing_left(Path(hydra.runtime.output_dir)):
            run(cfg, hydra)

    def run(cfg: DictConfig, hydra: HydraConf) -> None:
        folders = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
        config = to_config(cfg, kind, hydra.overrides.task, folders)
        trust_packages(config.trust)
        if isinstance(config, EvaluateConfig):
            config.crop = [word for word in network if is_crop_word(word)]
            about_network = network
            if config.checkpoints:
                about_network = [w for w in network if not is_crop_word(w) and not is_interpolation_word(w)]
                of_pixels = [word.partition("=")[2] for word in network if is_interpolation_word(word)]
                config.interpolation = of_pixels[-1] if of_pixels else config.interpolation
                check_rules(config)
            check_source(config.checkpoints, config.weights, about_network)
            check_crop(config)
            config.network = compose_network(about_network) if about_network else None
        task(config, Path(hydra.runtime.output_dir))

    try:
        with _interruptible_imports(), _showing(sys.argv[1:]):
            register()
            given, asked = split_why(sys.argv[1:])
            words = plain_words(given, kind)
            if asked is not None:
                print(printable(why(asked, words, config_name, kind)))
                return
            if kind is EvaluateConfig:
                network, words = split_network(words)
            if "--version" in words:
                print(f"imgcls {__version__}")
                return
            read = read_words(words)
            if read.shown_config == "job":
                words = [*words, "--resolve"]  # as ${...} it would not say what is trained
            sys.argv[1:] = words
            config_dir = _check_words(words)
            if "--help" in words or "-h" in words:
                print(help_text(config_name, config_dir))
                return
            if not read.multirun and any(word.startswith("sweep.file=") for word in words):
                raise ConfigError("sweep.file: a CSV of jobs is of a sweep, which is asked for with -m")
            if read.multirun and not _is_showing(words):
                if sweep is None:
                    raise ConfigError("-m: there are no sweeps of this command; run it once for each")
                raise SystemExit(sweep(read_sweep(words)))
            _run_hydra(job, config_name)
    except KeyboardInterrupt as error:
        print(printable(str(error)) or "interrupted", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", EXIT_INTERRUPTED)) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        if not is_reported(error):
            print(f"error: {printable(one_line(error, kind), lines=False)}", file=sys.stderr)
        raise SystemExit(code) from None


def compose_run(words: Sequence[str], config_dir: str | Path | None = None) -> tuple[Config, Path]:
    """Compose the run that `words` describe on train.py's command line, and return it with its directory.

    Args:
        config_dir: a folder of configs beside conf/, as --config-dir.

    Raises:
        ConfigError: as the command line has it.
    """
    register()
    words = plain_words(words, Config)
    try:
        check_choices(words)
        with compose_within_main():
            cfg = compose_whole("config", words, config_dir)
            path = Path(cfg.hydra.run.dir)
            with flag_override(cfg, ["readonly", "struct"], False):
                del cfg["hydra"]
            return to_config(cfg, words=words, folders=[CONF_DIR, *([config_dir] if config_dir else [])]), path
    except COMPOSITION_ERRORS as error:
        raise ConfigError(one_line(error)) from error


def plain_words(words: Sequence[str], kind: type) -> list[str]:
    """Rewrite a command line as Hydra's overrides: without dashes before keys, and with quotes around odd paths.

    Raises:
        ConfigError: an option without a value, or one that does not exist.
    """
    settings = dict(settings_of(kind))
    groups = {path.name for path in CONF_DIR.iterdir() if path.is_dir()}
    keys = {key.partition(".")[0] for key in settings} | groups

    def is_option(key: str) -> bool:
        return key.lstrip("+~").partition(".")[0] in keys

    for word in words:
        option = word.partition("=")[0]
        key = option.removeprefix("--").replace("-", "_")
        if word.startswith("--") and not is_option(key) and option not in hydra_options():
            hint = did_you_mean(key, [*settings, *groups])
            raise ConfigError(f"{option}: there is no such option{hint}; write key=value, or --key value (see --help)")
    flags = [key for key, rule in settings.items() if rule.is_flag]
    paths = [key for key, rule in settings.items() if rule.is_path] + ["data.source.train", "data.source.val"]
    sweep = "-m" in words or "--multirun" in words
    _check_roots(words)
    plain = [
        quote_path(word, paths=paths, sweep=sweep) for word in without_dashes(words, is_option=is_option, flags=flags)
    ]
    # conf/config.yaml has a choice of each of these, so that there is nothing to add: +experiment=x means experiment=x.
    chosen = {f"+{group}" for group in groups} if kind is Config else set()
    return [word[1:] if word.partition("=")[0] in chosen else word for word in plain]


@contextmanager
def _nothing_left(path: Path) -> Iterator[None]:
    """Where this context ends with an error, remove the run's directory, which Hydra has made, if nothing is in it.

    So are the folders above it: runs/<model>-<data>, and runs.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it is not empty
            for folder in (path, *path.parents[:2]):
                if not Path.cwd().is_relative_to(folder):
                    folder.rmdir()
        raise


def _check_roots(words: Sequence[str]) -> None:
    """Refuse several files as roots: a shell writes the names out that {0000..0099} in a pattern stands for.

    Of other words given twice the last one counts, as Hydra has it.
    """
    roots = {word for word in words if word.startswith("data.root=") and word.endswith((".tar", ".parquet"))}
    if len(roots) > 1:
        raise ConfigError(
            f"{min(roots)}: data.root is given {len(roots)} times; put a pattern of files into quotes, so that the "
            "shell leaves its braces: 'data.root=/data/train-{0000..0099}.tar'"
        )


def _check_words(words: list[str]) -> str | None:
    """Refuse what Hydra would answer with a page of usage, or without naming the key; return the --config-dir."""
    read = read_words(words)
    overrides, refused, config_dir = read.overrides, read.refused, read.config_dir
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
    if refused and refused[0].startswith("-"):
        raise ConfigError(f"{refused[0]}: there is no such option; write key=value, or --key value (see --help)")
    if refused:
        raise ConfigError(
            f"{refused[0]}: overrides are on both sides of an option such as -m; put all of them behind it"
        )
    check_choices(overrides)
    return config_dir


def _run_hydra(job: Callable[[DictConfig], None], config_name: str) -> None:
    try:
        failure = run_main(job, config_name)
    except OSError as error:  # Hydra makes the run's directory
        if error.filename is None:
            raise
        raise ConfigError(
            f"{error.filename}: the run's directory cannot be made: {error.strerror}; give the run another name "
            "(name=...), or start it in a directory where you may write"
        ) from error
    if failure is not None:
        raise failure


def _exit_code(error: BaseException) -> int | None:
    return EXIT_USER_MISTAKE if isinstance(error, COMPOSITION_ERRORS) else exit_code_of(error)


def _is_showing(words: Sequence[str]) -> bool:
    return bool(SHOWING.intersection(word.partition("=")[0] for word in words))


@contextmanager
def _showing(words: Sequence[str]) -> Iterator[None]:
    """Within this context a command line that only shows something ends quietly if its reader, such as head, stops."""
    if not _is_showing(words):
        yield
        return
    before = logging.raiseExceptions
    logging.raiseExceptions = False  # Hydra's --info logs what it shows
    try:
        with quiet_without_reader():
            yield
    finally:
        logging.raiseExceptions = before


@contextmanager
def _interruptible_imports() -> Iterator[None]:
    """Within this context Ctrl-C during an import ends the process at once, with code 130.

    torch's import turns a KeyboardInterrupt into an ImportError, or swallows it. Nothing has been done by then that
    could be lost; the trainer has its own signal handler.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        caller = frame
        while caller is not None:
            if caller.f_code.co_filename.startswith("<frozen importlib"):
                os.write(2, b"interrupted\n")
                os._exit(EXIT_INTERRUPTED)
            caller = caller.f_back
        signal.default_int_handler(number, frame)

    # A job in the background of a shell, or a program that calls this one, handles Ctrl-C in its own way.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
