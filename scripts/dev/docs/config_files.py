"""Read the files of conf/ as a reader does: each key with the comment that says what it means."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imgcls.environment import CONF_DIR

KEY = re.compile(r"^( *)([\w/]+):(?: (.*))?$")
COMMENT = re.compile(r"(?:^| +)# ?(.*)$")


@dataclass
class Key:
    """A key of a file: its dotted name, its value as written, and the comment beside or above it."""

    name: str
    value: str
    meaning: str


@dataclass
class Block:
    """Keys between two empty lines, and the comment above them all."""

    intro: str = ""
    keys: list[Key] = field(default_factory=list)


def leading_comment(path: Path) -> list[str]:
    """Return the lines of the comment that opens a file, without their # and without Hydra's @package."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def body(path: Path) -> str:
    """Return a file without the comment that opens it, as a user reads its settings."""
    lines = path.read_text().splitlines()
    opening = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[opening:]).strip()


def files_of(group: str) -> list[Path]:
    """Return the files of a group, sorted by name, numbers in their order."""
    return sorted(
        (CONF_DIR / group).glob("*.yaml"),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)],
    )


def read_blocks(path: Path, *, stop: str = "hydra:") -> list[Block]:
    """Return the blocks of keys of a config file, up to the line `stop`, without its defaults list."""
    blocks: list[Block] = []
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    block = Block()
    for line in [*_lines(path, stop), ""]:
        if not line.strip():
            if block.keys:
                blocks.append(block)
            block, above = Block(), []
            continue
        match = KEY.match(line.partition(" #")[0].rstrip())
        if match is None:
            _add_comment(line, block, above)
            continue
        indent = len(match[1])
        parents = [parent for parent in parents if parent[0] < indent]
        name = ".".join([*(parent for _, parent in parents), match[2]])
        parents.append((indent, match[2]))
        beside = COMMENT.search(line)
        if above and not block.keys:
            block.intro, above = " ".join(above), []
        meaning = " ".join([*above, beside[1] if beside else ""]).strip()
        block.keys.append(Key(name, (match[3] or "").strip(), meaning))
        above = []
    return blocks


def _add_comment(line: str, block: Block, above: list[str]) -> None:
    text = line.strip().removeprefix("#").strip()
    if not line.strip().startswith("#"):
        raise ValueError(f"neither a key nor a comment: {line}")
    indent = len(line) - len(line.lstrip())
    last = block.keys[-1] if block.keys else None
    if last and last.value and last.meaning and not above and indent == 2 * last.name.count(".") + 2:
        last.meaning += f" {text}"  # the comment beside the key goes on
    else:
        above.append(text)


def _lines(path: Path, stop: str) -> Iterator[str]:
    in_defaults = False
    lines = path.read_text().splitlines()
    for line in lines[len(leading_comment(path)) :]:
        if line.startswith(stop):
            return
        if line.startswith("defaults:"):
            in_defaults = True
        elif in_defaults and line and not line.startswith((" ", "-")):
            in_defaults = False
        if not in_defaults:
            yield line


# The lines of a recipe's comment that say what it takes to run it.
FACT = re.compile(r"^  (command|cost|expected) +(.*)$")


def before_facts(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a recipe's comment that say what it is."""
    for line in lines:
        if FACT.match(line):
            return
        yield line.strip()


def recipe_facts(path: Path) -> dict[str, list[str]]:
    """Return the command, cost and expected score above a recipe, each as its lines."""
    facts: dict[str, list[str]] = {}
    last = ""
    for line in leading_comment(path):
        if match := FACT.match(line):
            last = match[1]
            facts[last] = [match[2]]
        elif last and line.strip():
            facts[last].append(line.strip())
    return facts
