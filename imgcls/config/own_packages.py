"""Which packages of the user's own may stand behind a `_target_`: those that this command names, and no others.

A checkpoint's config may name any class; that it was once trusted says nothing about who wrote this one. So nothing
but the command line, or the caller of the library, calls `trust_packages`.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from imgcls.errors import ConfigError

_packages: tuple[str, ...] = ()


def package_names(value: Any) -> list[str]:
    """Return the packages that trust=mypkg, trust=[a,b] or trust=null names.

    Raises:
        ConfigError: it is something else, or a module of Python's own, as which `os.system` could be called.
    """
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in names
    ):
        raise ConfigError(f"trust={value} must name packages whose classes imgcls may call: trust=[mypkg]")
    for name in names:
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ConfigError(f"trust={name} is a part of Python, not a package of yours; leave it out")
    return list(names)


def trust_packages(names: Iterable[str]) -> None:
    """Let classes of these packages be called from now on, and of no others of the user's own.

    They may be installed, or lie in the current folder.
    """
    global _packages
    _packages = tuple(names)
    if _packages and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file there takes no installed module's place


def trusted_packages() -> tuple[str, ...]:
    return _packages
