"""Checkpoint files: written completely or not at all, checked when read, and never code.

A file holds tensors and plain types only, so it loads with `weights_only=True`; a pickle that would run something is
refused by torch before it runs.
"""

import argparse
import errno
import logging
import pickle
import re
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imgcls.runs import durable_file

log = logging.getLogger(__name__)
FORMAT = 2
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes
NAMES_OF_A_VALUE = 64  # at most, on average: weights that several layers share are named as often as there are layers


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: its text names the file, the reason and the way out."""


def save_checkpoint(content: dict[str, Any], path: Path, *, keep_previous: Path | None = None) -> None:
    """Write `content` to `path` so that a crash at any moment leaves either the old file or the new one intact.

    Args:
        content: a tree of dicts, lists, tensors and plain values.
        path: where to; the file is written beside it, synced, and renamed.
        keep_previous: where the old file at `path` is moved, instead of being replaced.

    Raises:
        OSError: the disk is full or refuses; the old file is untouched.
    """
    content = {"format": FORMAT, "checksum": checksum(content), **content}
    try:
        with durable_file(path, keep_previous=keep_previous) as file:
            torch.save(content, file)
    except BaseException as error:
        # torch reports a full disk by its own error, raised while it handles that of the disk.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def load_checkpoint(path: Path, *, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read and check a file that `save_checkpoint` wrote.

    Raises:
        CheckpointError: the file is torn, was changed, is of another program, or would run code.
        FileNotFoundError: there is none.
        OSError: it cannot be read, tried twice: network filesystems fail now and then.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file but a folder, a pipe or a device")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={path}: there is no such file")
    try:
        content = read_tensors(path, map_location)
    except (OSError, MemoryError, CheckpointError):
        raise  # says nothing about the content of the file
    except Exception as error:  # torch raises many kinds for bytes that are no checkpoint
        raise CheckpointError(f"{path} is damaged and cannot be read: {reason_unreadable(error)}") from error
    if not isinstance(content, dict) or "checksum" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of imgcls; weights alone are loaded by model=... weights={path}"
        )
    if content.pop("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of imgcls; train from scratch, or use that version"
        )
    if content.pop("checksum") != _checksum_of_file(content, path):
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    return content


def _checksum_of_file(content: Any, path: Path) -> int:
    try:
        return checksum(content)
    except (RuntimeError, TypeError, ValueError) as error:  # a sparse tensor, or a number of too many digits
        raise CheckpointError(
            f"{path} is damaged, or holds more than plain values: {reason_unreadable(error)}"
        ) from error


def read_tensors(path: Path, map_location: torch.device | str = "cpu") -> Any:
    """Read a file of torch.save that holds tensors and plain values; what it unfolds to fits the size of the file.

    A file of some hundred bytes can name a tensor of 10^12 values that all lie in one place, a list that holds
    itself many times over, or compressed zeros.

    Raises:
        CheckpointError: it unfolds to more.
        OSError, and whatever torch raises for bytes that are no such file.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise CheckpointError(f"{path} unfolds to more bytes than it has: it is not of torch.save")
    content = _read(path, map_location)
    if not _fits(content, size):
        raise CheckpointError(f"{path} has {size} bytes and unfolds to far more: it is not a file of weights")
    return content


def _fits(content: Any, size: int) -> bool:
    # A value takes a byte of the file at least, and a tensor its storage; both may have a number of names.
    left, todo = NAMES_OF_A_VALUE * size, [content]
    while todo and left >= 0:
        node = todo.pop()
        node = vars(node) if isinstance(node, argparse.Namespace) else node
        left -= 1
        if isinstance(node, Tensor):
            if not has_own_values(node):
                return False
            left -= node.numel() * node.element_size()
        elif isinstance(node, dict):
            todo += node.values()
            left -= len(node)
        elif isinstance(node, list | tuple):
            todo += node
            left -= len(node)
    return left >= 0


def has_own_values(tensor: Tensor) -> bool:
    """Return True if each value of a tensor has a separate place in memory, which bounds its size by the file's."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _read(path: Path, map_location: torch.device | str) -> Any:
    for last_try in (False, True):
        try:
            with harmless_classes():
                return torch.load(path, map_location=map_location, weights_only=True)
        except OSError as error:
            if error.errno == errno.EINVAL:  # torch seeks before the beginning of a torn file
                raise EOFError("it ends too early") from error
            if last_try:
                raise OSError(error.errno, error.strerror, str(path)) from error
        time.sleep(0.05)
    raise AssertionError


@contextmanager
def harmless_classes() -> Iterator[None]:
    """Within this context torch reads files of other trainers that hold their command line's `argparse.Namespace`.

    It is a bag of values that runs nothing; no other class is allowed.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        yield


def load_latest_checkpoint(paths: list[Path], *, map_location: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return the first of `paths` that is intact, with a warning for each damaged one; None if none exists.

    Raises:
        CheckpointError: there are files, and none of them is intact.
    """
    errors: dict[Path, CheckpointError] = {}
    for path in paths:
        try:
            content = load_checkpoint(path, map_location=map_location)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            errors[path] = error
            continue
        for damaged, error in errors.items():
            log.warning("%s; resuming from %s", error, path)
            # Out of the way, or the next save would replace the intact one by it.
            damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
        return content
    if errors:
        raise CheckpointError(f"{'; '.join(map(str, errors.values()))}; train from scratch with overwrite=true")
    return None


def reason_unreadable(error: Exception) -> str:
    """Return why a file is not read as tensors and plain values, without torch's advice.

    torch begins by advising weights_only=False, which would run code from the file.
    """
    if unsupported := re.search(r"Unsupported (?:global: GLOBAL|class|operand) \S+", str(error)):
        return f"it holds more than tensors and plain values ({unsupported.group()})"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it is damaged, or no file of torch.save"
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'it ends too early')}"


def checksum(content: Any) -> int:
    """Return the CRC-32 of a tree's keys, values and tensor bytes, whatever device the tensors are on."""
    return _crc(content, 0)


def _values_in_order(tensor: Tensor) -> np.ndarray:
    """Return the bytes of a tensor's values, whatever their order in memory.

    By numpy: torch would copy them with a team of threads. GNU's OpenMP lets no thread wait actively once there are
    more than cores, as with a second team, of the thread that writes checkpoints: steps on two cores took 1.3 times as
    long from the first checkpoint on.
    """
    values = tensor.detach().cpu()
    if (kind := _INTEGERS.get(values.element_size())) is not None:  # numpy does not know bfloat16
        values = values.view(kind)
    return np.ascontiguousarray(values.numpy()).reshape(-1).view(np.uint8)


def _crc(node: Any, crc: int) -> int:
    if isinstance(node, Tensor):
        crc = zlib.crc32(f"{node.dtype}{tuple(node.shape)}".encode(), crc)
        return zlib.crc32(_values_in_order(node).data, crc)
    if isinstance(node, dict):
        for key, value in node.items():
            crc = _crc(value, zlib.crc32(repr(key).encode(), crc))
        return crc
    if isinstance(node, list | tuple):
        for value in node:
            crc = _crc(value, zlib.crc32(b",", crc))
        return crc
    return zlib.crc32(repr(node).encode(), crc)
