"""Which files of a set that comes in several files are its training part, and which its validation part."""

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from imgcls.errors import ConfigError

# What the name of a file, or of its folder, has in it.
WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
WORDS |= {"eval": "val", "test": "test", "testing": "test"}
OFFICIAL = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}  # ImageNet's archives
_BRACES = re.compile(r"\{.*\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Parts(NamedTuple):
    """Paths or URLs of the files of each part, in their order; `test` is what is left out."""

    train: list[str]
    val: list[str]
    test: list[str]


def is_url(root: str) -> bool:
    """Return True if `root` is read through fsspec: s3://bucket/folder."""
    return re.match(r"[a-z0-9+.-]+://", root, re.IGNORECASE) is not None


def is_pattern(root: str) -> bool:
    """Return True if `root` names several files: `{000000..001281}.tar`, `train-*.tar`."""
    return not os.path.lexists(root) and (_BRACES.search(root) is not None or (not is_url(root) and "*" in root))


def expand(pattern: str) -> list[str]:
    """Return the names that a pattern's braces stand for, as in a shell: {000..012} counts, {a,b} are both."""
    first = pattern.find("{")
    words, end, depth = [], first + 1, 0
    for place in range(first, len(pattern)) if first >= 0 else ():
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0 or (depth == 1 and pattern[place] == ","):
            words.append(pattern[end:place])
            end = place + 1
        if depth == 0:
            break
    if first < 0 or depth:
        return [pattern]
    if len(words) == 1 and (counted := _RANGE.fullmatch(words[0])):
        low, high = counted[1], counted[2]
        if int(high) < int(low):
            raise ConfigError(f"{pattern}: {{{words[0]}}} counts backwards; name the smaller number first")
        words = [f"{number:0{len(low)}}" for number in range(int(low), int(high) + 1)]
    before = pattern[:first]
    names = [name for word in words for name in expand(word)]
    return [before + name + rest for name, rest in itertools.product(names, expand(pattern[end:]))]


def find_parts(root: str, train: str, val: str, endings: tuple[str, ...]) -> Parts:
    """Find the files of a set: in a folder, or named by a pattern, on this machine or at a URL.

    What a file belongs to is said by a word in its name (`imagenet-train-0000.tar`), or in that of its folder
    (`val/0000.tar`). `train` and `val` may name a folder below the root, or a pattern: then they say it; `val=none`
    leaves validation files out. Files without such a word are training files.

    Raises:
        FileNotFoundError: files of a pattern are not there.
    """
    parts = Parts([], [], [])
    named = {part: name for part, name in (("train", train), ("val", val)) if _names_files(name, endings)}
    base = _folder_of(root, endings)
    for part, name in named.items():
        getattr(parts, part)[:] = sorted(_files(name if _is_absolute(name) else _join(base, name), endings))
    if len(named) == 2:
        return parts
    files = list(_files(root, endings))
    if base == root:
        for place in (train, val, "data"):
            files += _files(_join(root, place), endings) if _is_folder(_join(root, place)) else []
    for file in sorted(set(files)):
        part = _part_of(file, train, val)
        if part not in named:
            getattr(parts, part).append(file)
    if val == "none":
        parts.val.clear()
    elif base != root and not parts.val and "val" not in named:  # a pattern of the training files: those beside them
        above = _folder_of(base, endings, parent=True)
        for place in (base, *(_join(above, name) for name in dict.fromkeys((val, "val", "valid", "validation")))):
            if not is_url(place) and _is_folder(place):
                parts.val.extend(file for file in sorted(_files(place, endings)) if _part_of(file, train, val) == "val")
    return parts


def parts_present(root: str, train: str, val: str) -> set[str]:
    """Return which of train and val a set has, in whichever form."""
    place = local_root(root)
    present = {part for part, name in (("train", train), ("val", val)) if _is_folder(_join(place, name))}
    official = {part for part, name in OFFICIAL.items() if os.path.isfile(os.path.join(place, name))}
    if official:
        return present | official
    parts = find_parts(place, train, val, (".tar", ".parquet"))
    return present | {part for part, files in (("train", parts.train), ("val", parts.val)) if files}


def _names_files(name: str, endings: tuple[str, ...]) -> bool:
    return name.endswith(endings) or is_url(name)


def _part_of(file: str, train: str, val: str) -> str:
    *_, folder, name = ("", *file.split("/"))
    if folder in (train, val):
        return "train" if folder == train else "val"
    for word in (*re.split(r"[^a-z]+", name.lower()), folder.lower()):
        if word in WORDS:
            return WORDS[word]
    return "train"


def _files(place: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Yield the files that a pattern, a file or a folder names."""
    names = expand(place) if is_pattern(place) or is_url(place) else [place]
    if is_url(place):
        yield from (file for name in names for file in _at_url(name, endings))
        return
    missing = []
    for name in names:
        if "*" in name and not os.path.lexists(name):
            found = [file for file in glob.glob(name) if file.endswith(endings)]
        elif os.path.isdir(name):
            found = [entry.path for entry in _scan(name) if entry.name.endswith(endings) and not entry.is_dir()]
        else:
            found = [name] if os.path.isfile(name) and name.endswith(endings) else []
            missing += [] if found or os.path.isfile(name) else [name]
        yield from found
    if missing and len(names) == 1:
        raise FileNotFoundError(f"data.root={place}: there is no such file or folder")
    if missing:
        raise FileNotFoundError(
            f"data.root={place}: {missing[0]} is not there ({len(missing):,} of {len(names):,} are not); complete the "
            "files, or name fewer"
        )


def _scan(folder: str) -> list[os.DirEntry[str]]:
    return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]


def _at_url(url: str, endings: tuple[str, ...]) -> list[str]:
    if url.endswith(endings):
        return [url]
    from imgcls.data.sets.remote import list_files

    return [file for file in list_files(url) if file.endswith(endings)]


def _is_folder(place: str) -> bool:
    return not is_url(place) and os.path.isdir(place)


def _is_absolute(name: str) -> bool:
    return is_url(name) or os.path.isabs(name)


def _join(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{name}"


def _folder_of(root: str, endings: tuple[str, ...], *, parent: bool = False) -> str:
    """Return the folder that a root is, or that the files of its pattern are in."""
    if parent or is_pattern(root) or root.endswith(endings):
        return root.rpartition("/")[0] or "."
    return root


def local_root(root: str) -> str:
    """Return a root with ~ written out; a URL as it is."""
    return root if is_url(root) else str(Path(root).expanduser())
