"""TODO imgcls.config.quoting."""

import os
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# Keys whose values are a user's own paths; of `overrides`, which are no paths, the parts hold a = as well.
PATHS = ("checkpoint", "weights", "real", "out", "data.root", "overrides")


def quote_paths(words: list[str]) -> list[str]:
    """Quote, in a command line, the paths that Hydra's grammar refuses, such as runs/x/batch_size=16,epochs=2/best.pt.

    What Hydra understands stays as it is, and so does what is quoted already. Where a comma may part two values (a list
    [a,b], or a sweep), existing files decide, or an ending .pt; if they do not, Hydra's error stands.
    """
    sweep = any(word in ("-m", "--multirun") for word in words)
    return [_quoted(word, sweep=sweep) for word in words]


def _quoted(word: str, *, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if key not in PATHS or not value or value[0] in "'\"" or "${" in value or _understood(word, sweep=sweep):
        return word
    if value[0] == "[":
        inner = value[1:-1]
        if value[-1] != "]" or any(mark in inner for mark in "'\"") or (key != "overrides" and "[" in inner):
            return word
        parts = re.split(r",(?=[\w.@/+~]+=)", inner) if key == "overrides" else _parted(inner)
        return f"{key}=[{','.join(map(_quote, parts))}]" if parts else word
    if sweep and "," in value and not os.path.exists(os.path.expanduser(value)):
        return word
    return key + equals + _quote(value)


def _understood(word: str, *, sweep: bool) -> bool:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return sweep or not override.is_sweep_override()


def _parted(inner: str) -> list[str]:
    # a=1,b=2/best.pt,c.pt to the paths in it; nothing where a part is neither there nor ends in .pt.
    found: list[str] = []
    path = ""
    for piece in inner.split(","):
        path = f"{path},{piece}" if path else piece.strip()
        if path.endswith(".pt") or os.path.exists(os.path.expanduser(path)):
            found.append(path)
            path = ""
    return [] if path else found


def _quote(value: str) -> str:
    # Backslashes count only before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), value) + "'"
