"""The size of what the network sees: the one place that reads `image_size` as height and width."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class ImageSize(NamedTuple):
    """Height and width in pixels. As text `224` for a square, `224x160` for another rectangle."""

    height: int
    width: int

    @classmethod
    def of(cls, value: "int | Sequence[int]") -> "ImageSize":
        """Return the size that a setting gives: the side of a square, or height and width.

        Raises:
            ValueError: it gives none; what is wrong, without the key and the value.
        """
        sides: list[Any] = [value, value] if isinstance(value, int) else list(value) if _is_pair(value) else []
        if not sides or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
            raise ValueError("is no size of images; use the side of a square such as 224, or [height,width]: [224,160]")
        if min(sides) < 1:
            raise ValueError("is too small; use at least 1")
        return cls(*sides)

    @property
    def setting(self) -> int | list[int]:
        """The value of the setting: the side of a square, or [height, width]."""
        return self.height if self.height == self.width else [self.height, self.width]

    @property
    def shorter(self) -> int:
        """The shorter side."""
        return min(self)

    @property
    def num_pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
