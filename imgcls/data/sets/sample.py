"""What a sample of a split's files says of their pixels, where a setting decides how they are shown."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from imgcls.data.decoding import BadImageError, Traits, traits_of
from imgcls.data.sets.files import FileSplit
from imgcls.data.sets.splits import Split
from imgcls.data.sets.verification import files_of

NUM_SAMPLED = 64


def describe_sample(split: Split) -> list[str]:
    """Return a line for each thing that a sample of the files has and that a setting decides on."""
    files, places = files_of(split)
    if files is None or not files.takes_rules:
        return []
    positions = np.unique(np.linspace(0, len(places) - 1, NUM_SAMPLED).astype(np.int64))
    traits = list(_traits(files, places[positions]))
    of = f"of {len(traits)} sampled training images"
    lines = []
    if turned := sum(one.orientation != 1 for one in traits):
        how = "turned by it" if files.rules.orientation == "apply" else "shown as stored; data.orientation=apply turns"
        lines.append(f"{turned} {of} have an EXIF orientation: {how}")
    if (clear := sum(one.transparent for one in traits)) and files.rules.alpha == "drop":
        lines.append(f"{clear} {of} are transparent: the hidden colours show; data.alpha=white or black covers them")
    unused = Counter(one.bits for one in traits if one.bits is not None and one.bits != 16)
    if unused and files.rules.bits is None:
        depths = ", ".join(f"{count} use {bits}" for bits, count in sorted(unused.items()))
        lines.append(
            f"{sum(unused.values())} {of} do not use all bits of their pixels ({depths}): each is shown by the bits of "
            f"its brightest pixel; data.bits={max(unused)} shows all alike"
        )
    return lines


def _traits(split: FileSplit, positions: np.ndarray) -> Iterator[Traits]:
    for position in positions.tolist():
        try:
            yield traits_of(split.read(position), split.path(position))
        except BadImageError:  # named when its turn comes
            continue
