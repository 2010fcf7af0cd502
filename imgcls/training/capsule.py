"""The capsule of a run, from the process that trains it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from imgcls import distributed
from imgcls.device import device_name
from imgcls.runs import add_to_capsule, describe_start


def keep_capsule(path: Path, words: Sequence[str], device: torch.device) -> None:
    """Note in the run's directory what this start of it is made with, once for all ranks."""
    if not distributed.is_main():
        return
    name = device_name(device)
    number = distributed.world_size()
    add_to_capsule(path, describe_start(words, name if number == 1 else f"{number} of {name}"))
