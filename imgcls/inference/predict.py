"""Images of any kind to their most probable classes: files, folders, patterns, or a list on standard input."""

import collections
import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from imgcls.data.decoding import BadImageError, decode_whole, describe_left_out, ending_of, is_image, traits_of
from imgcls.data.loading import view_images
from imgcls.data.sets import FolderSplit, pixel_rules, readable_names
from imgcls.environment import default_num_threads, printable
from imgcls.inference.figures import CaptionedImage, contact_sheet
from imgcls.inference.network import Member, known_classes, validation_crop
from imgcls.inference.predictor import Predictions, predict_views
from imgcls.inference.protocols import TestProtocol
from imgcls.runs import name_disk_errors


class ImageFiles(NamedTuple):
    """Files to look at, and what was passed over with the reason."""

    files: list[str]
    passed_over: list[str]


class ClassProbability(NamedTuple):
    """A class that the network names, with its probability."""

    class_name: str
    name: str
    probability: float


class Prediction(NamedTuple):
    """An image file and its most probable classes, the most probable first."""

    path: str
    guesses: list[ClassProbability]


def find_images(words: Sequence[str], listed: Iterable[str] = ()) -> ImageFiles:
    """Find files by words: a file, a folder (all images in it and below), a pattern, or `-` for the lines of `listed`.

    Raises:
        ValueError: there is nothing to look at.
    """
    files: list[str] = []
    passed_over: list[str] = []
    for word in words:
        named: Iterable[str] = (line.strip() for line in listed) if word == "-" else [word]
        for name in named:
            if not name:
                continue
            if os.path.isdir(name):
                files += _images_below(name, passed_over)
            elif os.path.exists(name):
                files.append(name)
            elif matches := sorted(glob.glob(name, recursive=True)):
                # Folders among the files of a pattern are passed over; of folders alone, what is in them is meant.
                inside = [match for match in matches if not os.path.isdir(match)]
                files += inside or [file for match in matches for file in _images_below(match, passed_over)]
            else:
                passed_over.append(f"{name}: there is no such file")
    unique = list(dict.fromkeys(files))
    if not unique:
        raise ValueError("; ".join(["no images to look at", *passed_over[:3]]))
    return ImageFiles(unique, passed_over)


def _images_below(folder: str, passed_over: list[str]) -> list[str]:
    files: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    for base, folders, inside in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(inside):
            if name.startswith("."):
                continue
            if is_image(os.fsencode(path := os.path.join(base, name))):
                files.append(path)
            else:
                left_out[ending_of(os.fsencode(name))] += 1
    if left_out:
        passed_over.append(f"{folder}: files that are no images: {describe_left_out(left_out)}")
    elif not files:
        passed_over.append(f"{folder}: holds no images")
    return files


def name_classes(predictions: Predictions, classes: Sequence[str], *, top: int) -> list[list[ClassProbability]]:
    """Return the `top` most probable classes of each image, the most probable first."""
    if not len(predictions.indices):
        return []
    names = readable_names(classes)
    best = predictions.log_probs.topk(min(top, len(classes)), dim=1)
    indices: list[list[int]] = best.indices.tolist()
    chances: list[list[float]] = best.values.exp().tolist()
    return [
        [ClassProbability(classes[k], names[k], chance) for k, chance in zip(*row, strict=True)]
        for row in zip(indices, chances, strict=True)
    ]


def predict_files(
    member: Member,
    files: Sequence[str],
    *,
    device: torch.device,
    protocol: TestProtocol,
    top: int = 5,
    batch_size: int = 32,
) -> tuple[list[Prediction], list[BadImageError]]:
    """Predict the classes of image files, in their order, and name those that cannot be decoded."""
    built = member.build(device)
    network = protocol.prepare(built)
    size, channels = member.config.input_size, member.config.data.channels
    crop = validation_crop(member)
    bad: list[BadImageError] = []
    images = view_images(
        member.files(files),
        range(len(files)),
        lambda height, width: protocol.views(height, width, image_size=size, crop=crop),
        channels=channels,
        num_threads=default_num_threads(),
        interpolation=member.interpolation,
        on_bad=lambda _, error: bad.append(error),
    )
    with member.explained(built):
        predictions = predict_views(
            network,
            images,
            prepare=member.prepare(device),
            device=device,
            max_pixels=batch_size * size.num_pixels,
            flip=protocol.flip,
            average=protocol.average,
        )
    guesses = name_classes(predictions, known_classes(member), top=top)
    seen = zip(predictions.indices.tolist(), guesses, strict=True)
    return [Prediction(str(files[index]), guess) for index, guess in seen], bad


def describe_orientation(member: Member, files: Sequence[str]) -> str | None:
    """Return a line on photos that EXIF data would turn and that are shown as stored, or None if there are none."""
    if pixel_rules(member.config.data).orientation == "apply":
        return None
    split, turned = FolderSplit.of_files(files), []
    for index, file in enumerate(files):
        try:
            if traits_of(split.read(index), file).orientation != 1:
                turned.append(file)
        except BadImageError:  # passed over
            continue
    if not turned:
        return None
    which = turned[0] if len(turned) == 1 else f"{len(turned)} images ({turned[0]}, ...)"
    has = "has" if len(turned) == 1 else "have"
    return f"{which} {has} an EXIF orientation, shown as stored; orientation=apply turns"


def as_table(predictions: Sequence[Prediction]) -> str:
    """Return a line for each image: its path, and the classes in percent."""
    paths = [printable(image.path, lines=False) for image in predictions]
    width = max(map(len, paths), default=0)
    return "\n".join(
        f"{path:<{width}}  " + "  ".join(f"{guess.name} {100 * guess.probability:.1f} %" for guess in image.guesses)
        for path, image in zip(paths, predictions, strict=True)
    )


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Return a row for each image, with a header: path, and class, name and probability of each rank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = range(1, max((len(image.guesses) for image in predictions), default=0) + 1)
    writer.writerow(["path", *(f"{part}{rank}" for rank in ranks for part in ("class", "name", "probability"))])
    for image in predictions:
        cells = [cell for guess in image.guesses for cell in (guess.class_name, guess.name, f"{guess.probability:.6f}")]
        writer.writerow([image.path, *cells])
    return text.getvalue().rstrip("\n")


def as_json(predictions: Sequence[Prediction]) -> str:
    """Return a JSON list of images, each with its path and its classes."""
    rows: list[dict[str, Any]] = [
        {
            "path": image.path,
            "top": [
                {"class": guess.class_name, "name": guess.name, "probability": guess.probability}
                for guess in image.guesses
            ],
        }
        for image in predictions
    ]
    return json.dumps(rows, indent=2)


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}


def save_contact_sheet(predictions: Sequence[Prediction], file: Path) -> None:
    """Draw the images with their classes below them into a PNG."""
    items = []
    for image in predictions:
        pixels = decode_whole(Path(image.path).read_bytes(), 3, image.path)
        lines: list[tuple[str, bool | None]] = [(Path(image.path).name, None)]
        lines += [
            (f"{100 * guess.probability:.0f} %  {guess.name}", True if rank == 0 else None)
            for rank, guess in enumerate(image.guesses)
        ]
        items.append(CaptionedImage(pixels, lines))
    with name_disk_errors(file):
        contact_sheet(items).save(file)
