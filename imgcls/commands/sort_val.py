"""Sort ImageNet's flat validation images into class folders, as training expects them."""

import argparse
import csv
import re
from pathlib import Path

from imgcls.config import run_script
from imgcls.environment import command, printable

WNID = re.compile(r"n\d{8}")
NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)


def main() -> None:
    """Run the command line."""
    run_script(sort_val)


def sort_val() -> None:
    """Sort the images that the command line names."""
    sort = command("sort_val")
    description = (
        "Sort ImageNet's flat validation images into class folders, as training expects them.\n\n"
        f"    {sort} /data/imagenet/val ILSVRC2012_validation_ground_truth.txt --meta meta.mat\n"
        f"    {sort} /data/imagenet/val LOC_val_solution.csv\n\n"
        "The labels are either the development kit's ground truth, with its meta.mat, or Kaggle's\n"
        "LOC_val_solution.csv, or any text file with one WordNet id per line, in the order of the images. Nothing is\n"
        "moved before every image has a label; a run that was broken off goes on where it stopped, and images that\n"
        "were sorted by other labels are moved too."
    )
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=sort, description=description, formatter_class=raw)
    parser.add_argument("val", type=Path, help="the folder of ILSVRC2012_val_*.JPEG")
    parser.add_argument("labels", type=Path, help="the file of labels")
    parser.add_argument("--meta", type=Path, help="the development kit's meta.mat, where labels are its numbers")
    asked = parser.parse_args()
    try:
        moved, sorted_already = sort_images(asked.val, read_labels(asked.labels, asked.meta))
    except (ValueError, OSError) as error:
        parser.error(printable(str(error)))
    print(f"{asked.val}: moved {moved} images into class folders, {sorted_already} were in theirs already")


def read_labels(path: Path, meta: Path | None = None) -> dict[int, str]:
    """Read the WordNet id of each validation image, by its number from 1.

    Raises:
        ValueError: the file is of no known kind, or meta.mat is missing or not what it should be.
    """
    text = path.read_text()
    if text.startswith("ImageId"):
        return dict(_label_of_row(row, path) for row in csv.DictReader(text.splitlines()))
    words = text.split()
    if words and all(WNID.fullmatch(word) for word in words):
        return dict(enumerate(words, 1))
    if words and all(word.isdecimal() for word in words):
        if meta is None:
            raise ValueError(
                f"{path} counts classes in the development kit's own order, not that of the WordNet ids; "
                "add --meta data/meta.mat from ILSVRC2012_devkit_t12.tar.gz"
            )
        wnids = read_meta(meta)
        if not 1 <= min(map(int, words)) <= max(map(int, words)) <= len(wnids):
            raise ValueError(f"{path} has labels outside 1..{len(wnids)}; is it the validation ground truth?")
        return {number: wnids[int(word) - 1] for number, word in enumerate(words, 1)}
    raise ValueError(f"{path} is neither LOC_val_solution.csv, nor WordNet ids, nor the development kit's numbers")


def _label_of_row(row: dict[str, str], path: Path) -> tuple[int, str]:
    image, label = row.get("ImageId") or "", row.get("PredictionString") or ""
    name, wnid = NAME.fullmatch(f"{image}.JPEG"), label.partition(" ")[0]
    if name is None or not WNID.fullmatch(wnid):
        raise ValueError(f"{path}: '{image},{label}' names no image with its WordNet id; download it again")
    return int(name[1]), wnid


def read_meta(path: Path) -> list[str]:
    """Return the WordNet ids of the development kit's classes 1 to 1000, from its meta.mat.

    Its struct array `synsets` has a row for each synset in the order of ILSVRC2012_ID; the first 1,000 are the classes.

    Raises:
        ValueError: it is another file.
    """
    from scipy.io import loadmat  # here: the other kinds of labels need no scipy

    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{path} is not the meta.mat of ILSVRC2012_devkit_t12.tar.gz ({error})") from error
    missing = [number for number in range(1, 1001) if number not in wnids]
    if missing:
        raise ValueError(f"{path} is not the meta.mat of ILSVRC2012_devkit_t12.tar.gz: no class {missing[0]}")
    return [wnids[number] for number in range(1, 1001)]


def sort_images(val: Path, labels: dict[int, str]) -> tuple[int, int]:
    """Move each image into the folder of its class; how many were moved, and how many were in theirs already.

    Raises:
        ValueError: an image without a label or there twice, or images that are missing.
    """
    images: dict[int, Path] = {}
    for path in [*val.iterdir(), *val.glob("n*/*")]:
        if match := NAME.fullmatch(path.name):
            if (number := int(match[1])) in images:
                raise ValueError(f"{images[number]} and {path} are the same image; remove one of them")
            images[number] = path
    if unknown := sorted(set(images) - set(labels)):
        raise ValueError(f"{images[unknown[0]]} has no label, and {len(unknown) - 1} others; is it the right file?")
    if len(images) != len(labels):
        raise ValueError(f"{val} holds {len(images)} images but there are {len(labels)} labels; unpack it again")
    astray = {number: path for number, path in sorted(images.items()) if path.parent != val / labels[number]}
    for number, path in astray.items():
        folder = val / labels[number]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    for folder in {path.parent for path in astray.values()} - {val}:
        if not any(folder.iterdir()):
            folder.rmdir()  # training refuses a class without images
    return len(astray), len(images) - len(astray)
