"""Validation images held out of a set without any: a share of each class, or one fold of several."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Holdout:
    """Which images of a set are held out.

    In each class the images are ordered by a hash of the seed and their names. The first `share` of them, rounded, one
    at least and never all, are the validation images; or the part `fold` of `num_folds` equal parts. So the split is
    the same wherever the set is, and k more images in a class move at most k of the others across it.

    Raises:
        ValueError: neither or both of the two ways, or a number out of its range.
    """

    share: float | None = None
    fold: int | None = None
    num_folds: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.fold is None) != (self.num_folds is None):
            given, other = ("fold", "num_folds") if self.num_folds is None else ("num_folds", "fold")
            raise ValueError(f"data.{given}={getattr(self, given)} needs data.{other}=... too")
        if self.share is not None and self.fold is not None:
            raise ValueError(
                f"data.val_share={self.share} and data.fold={self.fold} both choose validation images; leave one out"
            )
        if self.share is None and self.fold is None:
            raise ValueError("data.val_share or data.fold must say which images to hold out")
        if self.fold is not None and self.num_folds is not None and not 0 <= self.fold < self.num_folds:
            raise ValueError(
                f"data.fold={self.fold} is none of 0 to {self.num_folds - 1}, the folds of data.num_folds="
                f"{self.num_folds}"
            )

    def __str__(self) -> str:
        if self.share is not None:
            return f"data.val_share={self.share}"
        return f"data.fold={self.fold} of {self.num_folds}"

    def choose(self, names: Sequence[bytes], labels: np.ndarray) -> np.ndarray:
        """Return which of the images are held out, (N,) bool, by their names and labels (N,)."""
        keys = np.fromiter((self._key(name) for name in names), np.uint64, len(names))
        order = np.lexsort((keys, labels))
        bounds = np.searchsorted(labels[order], np.arange(labels.max(initial=-1) + 2))
        held_out = np.zeros(len(names), bool)
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            low, high = self._part(last - first)
            held_out[order[first + low : first + high]] = True
        return held_out

    def _part(self, num: int) -> tuple[int, int]:
        """Return which of the `num` ordered images of a class are held out, as a range."""
        if self.share is not None:
            return 0, min(max(round(self.share * num), 1), num - 1) if num else 0
        assert self.fold is not None
        assert self.num_folds is not None
        return num * self.fold // self.num_folds, num * (self.fold + 1) // self.num_folds

    def _key(self, name: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(b"%d " % self.seed + name, digest_size=8).digest(), "big")
