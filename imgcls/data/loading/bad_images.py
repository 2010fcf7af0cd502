"""The images of a split that cannot be decoded and are skipped: counted over all ranks, and over a resumed run."""

import logging
from collections.abc import Sequence

from imgcls import distributed
from imgcls.data.decoding import BadImageError
from imgcls.data.sets import Split

log = logging.getLogger(__name__)
REMEDY = "remove or replace the file, or leave such files out: data.on_bad_image=skip"


class RefusedImageError(BadImageError):
    """A bad image that ends the run: the text says what to do about it.

    Args:
        split, position: the split and its position there.
    """

    def __init__(self, name: str, reason: str, split: Split, position: int) -> None:
        super().__init__(name, f"{reason}; {REMEDY}")
        self.split, self.position = split, position


class BadImages:
    """Which images of `split` were skipped, by their positions.

    Args:
        skip: False: a bad image is an error, unless the split itself says that its file was `removed`.
        max_share: of the split that may be skipped; one image may always be, unless the share is 0.
    """

    def __init__(self, split: Split, *, skip: bool = True, max_share: float = 0.01) -> None:
        self.split = split
        self.skip = skip
        self.max_share = max_share
        self.removed: frozenset[int] = getattr(split, "removed", frozenset())
        self._found: dict[int, BadImageError] = {}
        self._unshared: set[int] = set()  # of those found, what this rank alone may know

    def __len__(self) -> int:
        return len(self._found)

    def may_skip(self, position: int) -> bool:
        """Return True if an image is to be left out where it is bad."""
        return self.skip or position in self.removed

    def note(self, position: int, error: BadImageError) -> None:
        """Count an image once, and warn of it.

        Raises:
            RefusedImageError: it is not to be skipped.
            ValueError: it is one too many.
        """
        if not self.may_skip(position):
            raise RefusedImageError(error.name, error.reason, self.split, position) from error
        if position not in self._found:
            self._found[position] = error
            self._unshared.add(position)
            log.warning("skipped a bad image: %s", error)
        self.check()

    def add(self, positions: Sequence[int]) -> None:
        """Count images that were noted by another rank, or before the run was resumed; every rank adds the same."""
        for position in positions:
            self._found.setdefault(position, BadImageError(self.split.path(position), "was skipped elsewhere"))
        self._unshared.difference_update(positions)

    def share(self) -> list[int]:
        """Let every rank know what any rank has found, and return its positions; a call that all of them make."""
        if distributed.agree(len(self._unshared)):
            parts = distributed.gather(sorted(self._found))
            self.add(distributed.from_main(parts and sorted(set().union(*parts))))
        return sorted(self._found)

    def check(self) -> None:
        """Hold the number of those known here against the limit.

        Raises:
            ValueError: there are too many.
        """
        least = 1 if self.max_share else 0
        if len(self) > max(self.max_share * len(self.split), least):
            raise ValueError(
                f"{len(self)} of {len(self.split)} images are bad, more than {self.max_share:.3g} of them, which "
                f"data.max_bad_share allows to skip: {_describe(list(self._found.values()))}"
            )


def _describe(failures: Sequence[BadImageError]) -> str:
    """Return the first few bad images, by name and reason."""
    shown = "; ".join(str(failure) for failure in failures[:3])
    return shown + (f"; and {len(failures) - 3} more" if len(failures) > 3 else "")
