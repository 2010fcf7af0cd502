"""The images of a split that cannot be decoded and are skipped: counted over all ranks, and over a resumed run."""

import logging
from collections.abc import Sequence

from imgcls import distributed
from imgcls.data.decoding import BadImageError
from imgcls.data.sets import Split

log = logging.getLogger(__name__)
MAX_SHARE = 0.01


class BadImages:
    """Which images of `split` were skipped, by their positions; more than 1 % of them are an error."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._found: dict[int, BadImageError] = {}
        self._unshared: set[int] = set()  # of those found, what this rank alone may know

    def __len__(self) -> int:
        return len(self._found)

    def note(self, position: int, error: BadImageError) -> None:
        """Count an image once, and warn of it.

        Raises:
            ValueError: it is one too many.
        """
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
        if len(self) > MAX_SHARE * len(self.split):
            raise ValueError(
                f"{len(self)} of {len(self.split)} images are bad, more than {MAX_SHARE:.0%} "
                f"may be skipped (data.on_bad_image=skip): {_describe(list(self._found.values()))}"
            )


def _describe(failures: Sequence[BadImageError]) -> str:
    """Return the first few bad images, by name and reason."""
    shown = "; ".join(str(failure) for failure in failures[:3])
    return shown + (f"; and {len(failures) - 3} more" if len(failures) > 3 else "")
