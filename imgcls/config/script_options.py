"""Command lines of the small scripts: options as --key value or key=value, and one line for a mistake.

Imports no torch, so that help and mistakes come at once.
"""

import argparse
import functools
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from imgcls import __version__
from imgcls.config.checks import check_source
from imgcls.config.command_line import compose_run
from imgcls.config.compose import compose_network
from imgcls.config.console import Console
from imgcls.config.own_packages import package_names, trust_packages
from imgcls.config.schema import Config
from imgcls.config.words import check_known, is_network_word, split_network, without_dashes
from imgcls.environment import command, printable
from imgcls.errors import EXIT_INTERRUPTED, ConfigError, did_you_mean, exit_code_of, quiet_without_reader, text_of

FORMS = "Every option may be written key=value, --key value or --key=value."


class ScriptParser(argparse.ArgumentParser):
    """A script's options; add_network gives it those that name a network.

    A mistake is a ConfigError with one line, not argparse's page of usage.
    """

    def __init__(self, name: str, description: str, *, epilog: str | None = None) -> None:
        super().__init__(
            prog=command(name),
            description=f"{description}\n\n{FORMS}",
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.takes_network = False
        self._flags: set[str] = set()

    def add_flag(self, name: str, *, help: str) -> None:
        """Add an option of true or false, which may be written without a value."""
        key = name.removeprefix("--").replace("-", "_")
        self._flags.add(key)
        self.add_argument(name, type=functools.partial(_true_or_false, key), default=False, metavar="BOOL", help=help)

    def add_choice(self, name: str, choices: Sequence[str], *, help: str) -> None:
        """Add an option with one of a few values; the first is the default."""
        key = name.removeprefix("--")

        def choose(value: str) -> str:
            if value not in choices:
                raise argparse.ArgumentTypeError(
                    f"{key}={value} is none of {', '.join(choices)}{did_you_mean(value, choices)}"
                )
            return value

        listed = f"{help}: {', '.join(choices)} (default: {choices[0]})"
        self.add_argument(name, type=choose, default=choices[0], metavar=key.upper(), help=listed)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse the command line.

        Returns:
            The options; `network` has the words that describe the network: model=resnet50, model.depth=18, ...

        Raises:
            ConfigError: an option that does not exist, or a value that it does not take.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        if "-h" in words or "--help" in words:
            self.print_help()
            raise SystemExit(0)
        if "--version" in words:
            print(f"imgcls {__version__}")
            raise SystemExit(0)
        names = {option.removeprefix("--") for action in self._actions for option in action.option_strings} - {"-h"}
        keys = {name.replace("-", "_") for name in names}
        lists = {action.dest for action in self._actions if action.option_strings and action.nargs == "+"}

        def is_option(key: str) -> bool:
            return key.replace("-", "_") in keys or (self.takes_network and is_network_word(key))

        plain = without_dashes(words, is_option=is_option, flags=self._flags, lists=lists)
        network, plain = split_network(plain) if self.takes_network else ([], plain)
        options, files = [], []
        for number, word in enumerate(plain):
            key, equals, value = word.partition("=")
            if word == "--":
                files += plain[number + 1 :]
                break
            if equals and is_option(key):
                options.append(f"{self._spelling(key)}={value}")
            else:
                check_known(word, keys - {"help"} | ({"model"} if self.takes_network else set()))
                files.append(word)
        parsed = self.parse_args([*options, "--", *files] if files else options)
        if self.takes_network:
            trust_packages(package_names([name for name in parsed.trust.strip("[]").split(",") if name]))
        parsed.network = network
        return parsed

    def _spelling(self, key: str) -> str:
        dashed = f"--{key.replace('_', '-')}"
        return dashed if dashed in self._option_string_actions else f"--{key}"

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message, with the option in the words that a user may write."""
        message = re.sub(r"^argument --(\S+): invalid int value: '(.*)'$", r"\1=\2 must be a whole number", message)
        message = re.sub(
            r"^the following arguments are required: (?:--)?", "this needs more words, see --help: ", message
        )
        raise ConfigError(re.sub(r"^argument \S+: ", "", message))


def parse_run_words(parser: ScriptParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Config, Path]:
    """Parse the command line of a script that takes train.py's words besides its options.

    Returns:
        The options, the config that train.py would compose from the other words, and its run's directory, which is not
        made.

    Raises:
        ConfigError: an option or a word that does not exist, or a value that it does not take.
    """
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of configs beside conf/, as train.py takes it")
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-m", "--multirun"}.intersection(words):
        raise ConfigError("-m: this looks at one run; run it once for each")
    if {"-h", "--help", "--version"}.intersection(words):
        parser.parse(words)
    own, run = [], []
    while words:
        word = words.pop(0)
        key, equals, _ = word.removeprefix("--").partition("=")
        if f"--{key.replace('_', '-')}" not in parser._option_string_actions or not (equals or word.startswith("--")):
            run.append(word)
        else:
            own += [word] if equals else [word, *words[:1]]
            words = words if equals else words[1:]
    options = parser.parse(own)
    config, path = compose_run(run, options.config_dir)
    trust_packages(config.trust)
    return options, config, path


def _true_or_false(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{key}={value} must be true or false")
    return value.lower() == "true"


def add_network(parser: ScriptParser) -> None:
    """Add the options that say which network: a checkpoint, or weights from elsewhere and train.py's words."""
    parser.takes_network = True
    parser.add_argument("--checkpoint", metavar="FILE", help="of a run: runs/.../best.pt, or its folder")
    parser.add_argument("--weights", metavar="W", help="instead of a checkpoint: torchvision, a file, or a URL")
    parser.add_choice("--weights-kind", ("average", "raw"), help="where a file holds both")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="with weights: one of conf/model, such as resnet50; its settings as in train.py, model.stride_in_3x3=true",
    )
    parser.add_argument("--trust", default="", metavar="PACKAGES", help="of your own whose classes a checkpoint names")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, xpu, mps (default: auto)")


def network_of(options: argparse.Namespace) -> Config | None:
    """Return the run that describes the network of `weights`, or None for a checkpoint, which brings its own.

    Raises:
        ConfigError: no network is named, or two are, or it does not exist.
    """
    check_source(options.checkpoint, options.weights, options.network)
    return compose_network(options.network) if options.network else None


def any_names() -> None:
    """Read and print file names whatever their bytes are: they need not be text."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")


def run_script(task: Callable[[], int | None]) -> None:
    """Run a script's task and exit with its code; a user's mistake is one line and code 2."""
    any_names()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Console(sys.stderr)])
    try:
        with quiet_without_reader():
            code = task()
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"error: {printable(text_of(error), lines=False)}", file=sys.stderr)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    raise SystemExit(code or 0)
