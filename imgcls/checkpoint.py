"""Checkpoints: written whole or not at all, checked when read, and never code.

A file holds tensors and plain types only, so it loads with `weights_only=True`; a pickle that would run something is
refused by torch before it runs.
"""

import logging
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: its text names the file, the reason and the way out."""


def save(content: dict[str, Any], path: Path, *, keep_previous: Path | None = None) -> None:
    """Write `content` to `path` so that a crash at any moment leaves the old file or the new one, whole.

    Args:
        content: a tree of dicts, lists, tensors and plain values.
        path: where to; the file is written beside it, synced, and renamed.
        keep_previous: where the file that stood at `path` goes, in place of being replaced.

    Raises:
        OSError: the disk is full or refuses; the old file is untouched.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "checksum": checksum(content), **content}, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if keep_previous is not None and path.exists():
        path.replace(keep_previous)
    partial.replace(path)
    _sync_directory(path.parent)


def load(path: Path, *, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read and check a file that `save` wrote.

    Raises:
        CheckpointError: the file is torn, was changed, is of another program, or would run code.
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={path}: there is no such file")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _reason(error)
        raise CheckpointError(f"{path} is damaged, or holds more than tensors and plain values: {reason}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be read: {_reason(error)}") from error
    if not isinstance(content, dict) or "checksum" not in content:
        raise CheckpointError(f"{path} is no checkpoint of imgcls; weights alone go in by another way (weights=...)")
    if content.pop("format") != FORMAT:
        raise CheckpointError(f"{path} was written by another version of imgcls; train anew, or use that version")
    if content.pop("checksum") != checksum(content):
        raise CheckpointError(f"{path} is damaged: its checksum does not match")
    return content


def load_latest(paths: list[Path], *, map_location: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return the first of `paths` that is whole, with a warning for each that is not; None where none exists.

    Raises:
        CheckpointError: there are files, and none of them is whole.
    """
    errors = []
    for path in paths:
        try:
            content = load(path, map_location=map_location)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            errors.append(str(error))
            continue
        for error in errors:
            log.warning("%s; going on from %s", error, path)
        return content
    if errors:
        raise CheckpointError(f"{'; '.join(errors)}; start anew with overwrite=true")
    return None


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def checksum(content: Any) -> int:
    """Return the CRC-32 of a tree's keys, values and tensor bytes, whatever device the tensors are on."""
    return _crc(content, 0)


def _crc(node: Any, crc: int) -> int:
    if isinstance(node, Tensor):
        crc = zlib.crc32(f"{node.dtype}{tuple(node.shape)}".encode(), crc)
        flat = node.detach().cpu().contiguous().reshape(-1)
        return zlib.crc32(flat.view(torch.uint8).numpy().data, crc)
    if isinstance(node, dict):
        for key, value in node.items():
            crc = _crc(value, zlib.crc32(repr(key).encode(), crc))
        return crc
    if isinstance(node, list | tuple):
        for value in node:
            crc = _crc(value, zlib.crc32(b",", crc))
        return crc
    return zlib.crc32(repr(node).encode(), crc)


def _sync_directory(path: Path) -> None:
    # A rename is on disk only once its directory is.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
