"""What a run was made with, beside its config: command, code, packages, machine; enough to run it again."""

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgcls import __version__
from imgcls.environment import num_cores, processor_name
from imgcls.errors import ConfigError
from imgcls.runs.disk import durable_file
from imgcls.runs.saved import read_json

CAPSULE = "capsule.json"
MOST_DIFF = 2**20  # bytes of a diff that are kept
ENVIRONMENT = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "IMGCLS_CACHE", "IMGCLS_TRUST_CONFIG")
# What says where and when a run was, and decides no result.
INCIDENTAL = ("started", "folder", "words")
NAMED = ("packages", "environment")  # what may be there or not, by its name


def describe_start(words: Sequence[str], device: str) -> dict[str, Any]:
    """Return what this process trains with.

    Args:
        words: of train.py's command line.
        device: what the run trains on, as torch names it.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "words": list(words),
        "folder": os.getcwd(),
        "imgcls": __version__,
        "commit": git("rev-parse", "HEAD").strip(),
        "changes": _checksum(uncommitted_changes()),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": num_cores(),
        "device": device,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Return the version of every installed package, by its name."""
    # Each access to `metadata` reads the file and parses it.
    found = [each.metadata for each in importlib.metadata.distributions()]
    named = {(each["Name"] or "").lower(): each["Version"] for each in found}
    return dict(sorted((name, version) for name, version in named.items() if name))


def add_to_capsule(path: Path, start: dict[str, Any]) -> None:
    """Add a start to the capsule of the run in `path`, and keep the uncommitted changes of the code."""
    if diff := uncommitted_changes():
        with durable_file(path / diff_name(_checksum(diff))) as file:
            file.write(diff[:MOST_DIFF])
    with durable_file(path / CAPSULE) as file:
        file.write((json.dumps({"starts": [*_starts(path), start]}, indent=1) + "\n").encode())


def diff_name(changes: str | None) -> str:
    """Return the name of the file with the uncommitted changes of that checksum."""
    return f"code-{changes}.diff"


def read_capsule(path: Path) -> list[dict[str, Any]]:
    """Return the starts of the run in `path`, the first one first.

    Raises:
        ConfigError: it has no capsule.
        ValueError: that is damaged.
    """
    starts = _starts(path)
    if not starts:
        raise ConfigError(f"{path} holds no run with a {CAPSULE}, which runs have that imgcls 0.1.0 or later began")
    return starts


def _starts(path: Path) -> list[dict[str, Any]]:
    def check(content: dict[str, Any]) -> None:
        starts = content.get("starts")
        if not isinstance(starts, list) or not all(
            isinstance(start, dict) and isinstance(start.get("words"), list) for start in starts
        ):
            raise ValueError("it lists no starts")

    return (read_json(path / CAPSULE, check=check) or {"starts": []})["starts"]


def differing_facts(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """Return what two starts were made with and that differs: the fact, the name within it, and both values."""
    facts = []
    for key in dict.fromkeys([*one, *other]):
        first, second = one.get(key), other.get(key)
        if key in INCIDENTAL or first == second:
            continue
        if isinstance(first, dict) and isinstance(second, dict):
            names = sorted({*first, *second})
            facts += [(key, name, first.get(name), second.get(name)) for name in names]
        else:
            facts.append((key, key, first, second))
    return [fact for fact in facts if fact[2] != fact[3]]


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each thing that two starts were made with and that differs."""

    def shown(value: Any, fact: str) -> Any:
        return "none" if value is None and fact in NAMED else value

    return [
        f"{name}: {shown(before, fact)} then, {shown(after, fact)} now"
        for fact, name, before, after in differing_facts(then, now)
    ]


@functools.cache
def uncommitted_changes() -> bytes:
    """Return the changes of this checkout's code since its last commit, as they are when first asked for."""
    return git("diff", "HEAD").encode(errors="replace")


def _checksum(diff: bytes) -> str | None:
    return f"{zlib.crc32(diff):08x}" if diff else None


def git(*words: str) -> str:
    """Return what git prints in this checkout, or nothing where there is none."""
    command = ["git", "-c", "core.quotepath=off", *words]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
