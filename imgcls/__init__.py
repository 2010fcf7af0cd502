"""Train and test image classifiers on ImageNet, every choice a Hydra config.

As a library: `imgcls.train("model=resnet18", ...)` and `imgcls.load("runs/x/best.pt")`; both are imported when they are
first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgcls.library import load, train

__version__ = "0.1.0"
__all__ = ["__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in ("load", "train"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imgcls import library

    return getattr(library, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
