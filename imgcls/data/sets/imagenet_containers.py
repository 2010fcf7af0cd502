"""ImageNet in shards and in parquet files: the same names, labels and order as in folders."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from imgcls.data.sets.containers import ContainerSplit, Index, Part, are_numbers, make_split, note_left_out
from imgcls.data.sets.folder import SetReport
from imgcls.data.sets.imagenet_labels import WNID
from imgcls.data.sets.listing import prefix_names
from imgcls.data.sets.shards import Found
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import printable


def open_containers(
    root: str, found: Found, wnids: Sequence[str], *, channels: int, without_training: bool
) -> ImageSet:
    """Return ImageNet, or a part of it, from files whose labels count its classes, or are WordNet ids.

    Args:
        wnids: by class index.
        without_training: for a test, which needs no training images.

    Raises:
        FileNotFoundError: there are no training or no validation images.
        ValueError: labels that are not ImageNet's, or validation images of a class without training images.
    """
    for part, word in ((found.val, "validation"), (found.val if without_training else found.train, "training")):
        if part is None:
            raise FileNotFoundError(
                f"data.root={root} has no {word} images; their files have the word {word[:5].rstrip('id')} in their "
                f"names, or are named by data.source.{'train' if word == 'training' else 'val'}"
            )
    assert found.val is not None
    train = found.val if without_training or found.train is None else found.train
    of_train, of_val = (_wnid_of(part, wnids) for part in (train, found.val))
    classes = sorted({of_train[text] for text in train.index.texts})
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    if unknown := sorted({of_val[text] for text in found.val.index.texts} - set(classes)):
        raise ValueError(
            f"data.root={root}: validation images are of class {unknown[0]}, which the training images lack; give the "
            "whole set"
        )
    report = SetReport(classes)
    report.notes.append(found.note)
    splits = []
    for part, wnid_of in ((train, of_train), (found.val, of_val)):
        split = make_split(part, {text: label_of[wnid] for text, wnid in wnid_of.items()})
        splits.append(_in_folders(part, split, classes))
        note_left_out(report, part.index)
    report.all_classes(splits[0].labels, splits[1].labels, "text")
    images = report.image_set(splits[0], splits[1], channels)
    return dataclasses.replace(images, train=images.val) if without_training else images


def _wnid_of(part: Part, wnids: Sequence[str]) -> dict[str, str]:
    """Return the WordNet ids that the labels of a part stand for."""
    texts, place = part.index.texts, part.files[0].parent
    if all(map(WNID.fullmatch, texts)):
        wnid_of = {text: text for text in texts}
    elif not are_numbers(part.index):
        others = [text for text in texts if not WNID.fullmatch(text)]
        other = next((text for text in others if not text.isdecimal()), others[0])
        raise ValueError(
            f"{place}: label {other!r} is neither a WordNet id nor the number of a class, 0 to 999; use "
            "data=webdataset or data=parquet for other sets"
        )
    elif int(texts[-1]) >= len(wnids):
        raise ValueError(
            f"{place}: label {texts[-1]} is outside 0..{len(wnids) - 1}; labels count ImageNet's classes from 0, in "
            "the order of their WordNet ids"
        )
    else:
        wnid_of = {text: wnids[int(text)] for text in texts}
    wrong = _of_another_class(part.index, [wnid_of[text] for text in texts])
    if wrong is not None:
        index = part.index
        name = index.names[index.offsets[wrong] : index.offsets[wrong + 1]].tobytes()
        text = texts[index.labels[wrong]]
        raise ValueError(
            f"{place}: {printable(os.fsdecode(name), lines=False)} has label {text}, which is {wnid_of[text]} among "
            "ImageNet's 1,000 classes in the order of their WordNet ids; use data=webdataset or data=parquet for other "
            "sets"
        )
    return wnid_of


def _of_another_class(index: Index, wnids: Sequence[str]) -> int | None:
    """Return the position of an image whose name begins with another WordNet id than that of its label, if any does.

    Args:
        wnids: by label.
    """
    width = len("n01440764_")
    long = np.flatnonzero(np.diff(index.offsets) >= width)
    expected = np.frombuffer(b"".join(map(os.fsencode, wnids)), np.uint8).reshape(-1, width - 1)
    starts, labels = index.offsets[long], index.labels[long]
    has_wnid, differs = np.ones(len(long), bool), np.zeros(len(long), bool)
    for place in range(width):  # a column at a time needs the least memory
        letters = index.names[starts + place]
        if place in (0, width - 1):
            has_wnid &= letters == ord("n" if place == 0 else "_")
        else:
            has_wnid &= (letters >= ord("0")) & (letters <= ord("9"))
        if place < width - 1:
            differs |= letters != expected[labels, place]
    wrong = long[has_wnid & differs]
    return int(wrong[0]) if len(wrong) else None


def _in_folders(part: Part, split: ContainerSplit, classes: Sequence[str]) -> ContainerSplit:
    """Return the images named as in folders, <wnid>/<file>."""
    prefixes = np.frombuffer(b"".join(os.fsencode(wnid) + b"/" for wnid in classes), np.uint8)
    blob, offsets = prefix_names(
        split.index.names, split.index.offsets, prefixes.reshape(len(classes), -1), split.labels
    )
    return part.kind(part.files, split.index._replace(names=blob, offsets=offsets), split.labels)
