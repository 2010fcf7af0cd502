"""Look at a run's images: their number, whether a sample decodes, what is in both train and val, the size on disk."""

import time
from collections.abc import Iterator

import numpy as np

from imgcls.config import Config
from imgcls.data.decoding import BadImageError
from imgcls.data.sets import (
    FileSplit,
    ImageSet,
    Split,
    StreamedSplit,
    checksum_of,
    checksums_of,
    describe_sample,
    files_of,
)
from imgcls.doctor.findings import Finding, bytes_text, fail, note
from imgcls.environment import available_memory, command

SAMPLE = 64  # images of each split that are decoded
SECONDS_TO_DECODE = 8.0
SECONDS_TO_COMPARE = 12.0
VAL_COMPARED = 2000  # validation images that are looked for among the training images
NEVER_SHARED = 64  # bytes: files as small as that are equal by chance


def look_at_images(config: Config, images: ImageSet) -> Iterator[Finding]:
    """Yield what there is to say of the images that a run trains on."""
    yield _count(config, images)
    for text in images.notes:
        yield Finding("data", text)
    for text in images.warnings:
        yield note("data", text)
    yield from _decode_sample(config, images)
    for text in describe_sample(images.train):
        yield note("pixels", text)
    if images.train is not images.val and config.data.memorise is None:
        yield from _shared(images)
    yield from _size_on_disk(images)


def _count(config: Config, images: ImageSet) -> Finding:
    numbers = (len(images.train), len(images.val))
    text = (
        f"{config.data.name}: {len(images.classes):,} classes, {numbers[0]:,} training and {numbers[1]:,} validation "
        "images"
    )
    published = config.data.published_images
    if published is None or config.data.memorise is not None:
        return Finding("data", text)
    if numbers == tuple(published):
        return Finding("data", f"{text}, as published")
    return note(
        "data",
        f"{text}; the whole set has {published[0]:,} and {published[1]:,}: unpack it again, unless a part is meant",
    )


def _decode_sample(config: Config, images: ImageSet) -> Iterator[Finding]:
    bad: list[BadImageError] = []
    num, started, sides = 0, time.monotonic(), []
    splits = (images.train,) if images.val is images.train else (images.train, images.val)
    for split in splits:
        until = time.monotonic() + SECONDS_TO_DECODE / len(splits)
        for index in _spread(len(split), SAMPLE):
            if time.monotonic() > until:
                break
            num += 1
            try:
                sides.append(min(split.pixels(index, config.data.channels).shape[:2]))
            except BadImageError as error:
                if isinstance(split, StreamedSplit) and isinstance(error.__cause__, OSError):
                    yield note("decode", f"no sample of the training images: {error.reason}")
                    break
                bad.append(error)
    if not bad:
        small = f", shorter side {int(np.median(sides))} px in the middle" if sides else ""
        yield Finding("decode", f"a sample of {num} images decodes{small} ({time.monotonic() - started:.1f} s)")
        return
    text = f"{len(bad)} of a sample of {num} images cannot be decoded, such as {bad[0]}"
    if config.data.on_bad_image == "skip" and len(bad) <= max(1, config.data.max_bad_share * num):
        yield note("decode", f"{text}; data.on_bad_image=skip leaves them out")
        return
    yield fail(
        "decode", f"{text}; {command('verify_data')} with the same words lists all, for data.exclude=exclude.txt"
    )


def _shared(images: ImageSet) -> Iterator[Finding]:
    """Look for validation images that are training images too, by their bytes."""
    both = [checksums_of(split) for split in (images.train, images.val)]
    train, val = both
    if train is None or val is None:
        found, compared = _compare(images)
    else:
        found, compared = np.isin(val, train).nonzero()[0].tolist(), f"all {len(val):,} validation images"
    if found:
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        yield note(
            "leak",
            f"of {compared} {len(found):,} are training images too ({images.val.path(found[0])}{more}): the scores are "
            f"too good; {command('verify_data')} lists them",
        )
    elif compared:
        yield Finding("leak", f"none of {compared} is a training image too")


def _compare(images: ImageSet) -> tuple[list[int], str]:
    """Return the validation images among a sample that are training images, and what was compared."""
    until = time.monotonic() + SECONDS_TO_COMPARE
    sample = list(_spread(len(images.val), VAL_COMPARED))
    if images.train.decoded is not None and images.val.decoded is not None:
        known, val_images = {_digest(image) for image in images.train.decoded}, images.val.decoded
        found = [index for index in sample if _digest(val_images[index]) in known]
        return found, f"{len(sample):,} validation images"
    (train, of_train), (val, of_val) = files_of(images.train), files_of(images.val)
    if train is None or val is None:
        return [], ""
    by_size: dict[int, list[int]] = {}
    num = 0
    for some in _batches(of_train[_spread(len(of_train), len(of_train))]):
        for place, size in zip(some.tolist(), train.num_bytes(some).tolist(), strict=True):
            by_size.setdefault(size, []).append(place)
        num += len(some)
        if time.monotonic() > until - SECONDS_TO_COMPARE / 2:
            break
    found, looked_at = [], 0
    for index, size in zip(sample, val.num_bytes(of_val[sample]).tolist(), strict=True):
        if time.monotonic() > until:
            break
        looked_at += 1
        alike = by_size.get(size, ()) if size > NEVER_SHARED else ()
        own = _checksum(val, int(of_val[index])) if alike else None
        if own is not None and any(_checksum(train, place) == own for place in alike):
            found.append(index)
    return found, f"{looked_at:,} validation images, among {num:,} training images,"


def _batches(positions: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(positions), 1000):
        yield positions[first : first + 1000]


def _digest(image: np.ndarray) -> int:
    return checksum_of(image.tobytes())


def _checksum(split: FileSplit, index: int) -> int | None:
    try:
        return checksum_of(split.read(index))
    except BadImageError:
        return None


def _size_on_disk(images: ImageSet) -> Iterator[Finding]:
    if isinstance(images.train, StreamedSplit):
        yield Finding("files", f"{bytes_text(images.train.shards.num_bytes)} of shards, which each epoch fetches")
        return
    total = sum(_bytes_of(split) for split in (images.train, images.val))
    free = available_memory()
    if not total or free is None:
        return
    text = f"about {bytes_text(total)} of files, {bytes_text(free)} of memory free"
    if total < 0.8 * free:
        yield Finding("files", f"{text}: after the first epoch they are read from memory")
    else:
        yield note(
            "files",
            f"{text}: every epoch reads the disk; {command('pack')} makes one smaller file",
        )


def _bytes_of(split: Split) -> float:
    files, places = files_of(split)
    if files is None:
        return 0.0
    sizes = files.num_bytes(places[_spread(len(places), 500)])
    return float(np.mean(sizes[sizes >= 0])) * len(split) if (sizes >= 0).any() else 0.0


def _spread(num: int, most: int) -> list[int]:
    """Return at most `most` of the positions 0 to num - 1, evenly spread, in an order that is spread as well."""
    positions = np.unique(np.linspace(0, max(num - 1, 0), min(num, most)).astype(np.int64))
    return np.random.default_rng(0).permutation(positions).tolist()
