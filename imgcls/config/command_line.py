"""TODO imgcls.config.command_line."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imgcls.config.compose import AnyConfig, check_choices, register, to_config
from imgcls.config.messages import one_line
from imgcls.config.quoting import quote_paths
from imgcls.config.schema import Config
from imgcls.environment import CONF_DIR
from imgcls.errors import EXIT_USER_MISTAKE, ConfigError, exit_code_of

log = logging.getLogger(__name__)


class Console(logging.StreamHandler):
    """Log lines on the terminal; where their reader, such as head, has enough, the run goes on without them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # Into nothing from now on, what print and the end of the process still flush included.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)
        else:
            super().handleError(record)


@dataclass
class Outcome:
    """How one job of a sweep ended: the run's directory, and the error where there was one."""

    run_dir: str
    error: str | None = None


def command_line(
    task: Callable[[AnyConfig, Path], None], *, config_name: str = "config", kind: type[AnyConfig] = Config
) -> list[Outcome]:
    """Run `task(config, run_dir)` as Hydra composes it from sys.argv, once, or for each job of a sweep (`-m`).

    `kind` is the class of the config, which `config_name` in conf/ has as its schema.

    A user's mistake ends with one line and exit code 2, without a traceback; an exception that brings an `exit_code`
    of its own ends with its text and that code. In a sweep a failing job is reported and the next one runs.

    Returns:
        The outcomes of a sweep's jobs in this process; empty after a single run.
    """
    register()
    outcomes: list[Outcome] = []

    def job(cfg: DictConfig) -> None:
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            task(to_config(cfg, kind), run_dir)
        except Exception as error:
            if not sweep:
                raise
            expected = _exit_code(error) is not None
            text = one_line(error) if expected else f"{type(error).__name__}: {error}"
            log.error(text, exc_info=None if expected else error)
            outcomes.append(Outcome(str(run_dir), error=text))
        else:
            outcomes.append(Outcome(str(run_dir)))
        return None

    sys.argv[1:] = quote_paths(sys.argv[1:])
    try:
        with _interruptible_imports():
            _run_hydra(job, config_name)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", 130)) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(code) from None
    return outcomes if len(outcomes) > 1 or any(outcome.error for outcome in outcomes) else []


def _exit_code(error: BaseException) -> int | None:
    is_hydras = isinstance(error, HydraException | OmegaConfBaseException)
    return EXIT_USER_MISTAKE if is_hydras else exit_code_of(error)


@contextmanager
def _interruptible_imports() -> Iterator[None]:
    """Within this context Ctrl-C during an import ends the process at once, with code 130.

    torch's import turns a KeyboardInterrupt into an ImportError of its own, or swallows it. Nothing has been done by
    then that could be lost; the trainer hears signals by a handler of its own.
    """

    def hear(number: int, frame: FrameType | None) -> None:
        caller = frame
        while caller is not None:
            if caller.f_code.co_filename.startswith("<frozen importlib"):
                os.write(2, b"interrupted\n")
                os._exit(130)
            caller = caller.f_back
        signal.default_int_handler(number, frame)

    # A job in the background of a shell, or a program around this one, has its own answer to Ctrl-C.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_hydra(job: Callable[[DictConfig], None], config_name: str) -> None:
    """Run Hydra's own main so that its errors reach the caller as exceptions instead of a printed page."""
    raised: list[BaseException] = []

    def keep(cfg: DictConfig) -> None:
        # Hydra prints a line of its own before it passes a job's exception on; hand ours over behind its back.
        try:
            job(cfg)
        except Exception as error:
            raised.append(error)

    known, rest = get_args_parser().parse_known_args()
    if rest and rest[0].startswith("-"):
        raise ConfigError(
            f"{rest[0]}: there is no such option; what to train is key=value, without dashes (see --help)"
        )
    if rest:
        raise ConfigError(
            f"{rest[0]}: overrides stand on both sides of an option such as -m; put all of them behind it"
        )
    check_choices(known.overrides)
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(keep)()
    except OSError as error:  # Hydra makes the run's directory; what a job raises is kept
        if error.filename is None:
            raise
        raise ConfigError(
            f"{error.filename}: the run's directory cannot be made: {error.strerror}; give the run another name "
            "(name=...), or start it in a directory where you may write"
        ) from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
    if raised:
        raise raised[0]
