"""The labels of ImageNet's validation images, as they are distributed apart from them."""

import csv
import functools
import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

WNID = re.compile(r"n\d{8}")
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META, KAGGLE = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "LOC_val_solution.csv"
NEEDED = f"{DEVKIT}.tar.gz (or its {TRUTH}), Kaggle's {KAGGLE}, or imagenet_2012_validation_synset_labels.txt"


def find_labels(folder: Path, devkit_wnids: list[str]) -> tuple[dict[int, str], Path] | None:
    """Find the labels of the validation images in `folder` or below it; return them by image number, and their file.

    Args:
        devkit_wnids: the WordNet ids of the development kit's classes 1 to 1000, used where its meta.mat is not there.

    Raises:
        ValueError: the file is damaged, or another one than its name says.
    """
    for name in (KAGGLE, "imagenet_2012_validation_synset_labels.txt", "val_labels.txt"):
        if (file := folder / name).is_file():
            return read_labels(file), file
    for place in (folder, folder / "data", folder / DEVKIT / "data", folder / "devkit" / "data"):
        if (file := place / TRUTH).is_file():
            meta = place / META
            wnids = read_meta(meta) if meta.is_file() else devkit_wnids
            return parse_labels(file.read_text(), str(file), wnids), file
    if (file := folder / f"{DEVKIT}.tar.gz").is_file():
        return _of_devkit(file, devkit_wnids), file
    return None


def _of_devkit(file: Path, devkit_wnids: list[str]) -> dict[int, str]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:*") as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if name in (TRUTH, META) and member.isfile() and (content := archive.extractfile(member)):
                    found[name] = content.read(1 << 26)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}); download it again") from None
    if TRUTH not in found:
        raise ValueError(f"{file} holds no {TRUTH}: it is another development kit; get that of task 1 and 2, t12")
    wnids = read_meta(io.BytesIO(found[META]), str(file)) if META in found else devkit_wnids
    return parse_labels(found[TRUTH].decode(errors="replace"), f"{file}:{TRUTH}", wnids)


def read_labels(path: Path, meta: Path | None = None) -> dict[int, str]:
    """Read the WordNet id of each validation image, by its number from 1.

    Raises:
        ValueError: the file is of no known kind, or meta.mat is missing or not what it should be.
    """
    return parse_labels(path.read_text(), str(path), None if meta is None else functools.partial(read_meta, meta))


def parse_labels(text: str, path: str, of_numbers: list[str] | Callable[[], list[str]] | None) -> dict[int, str]:
    """Return the WordNet id of each validation image, by its number from 1, of a file's text.

    Args:
        path: of the file, for messages.
        of_numbers: the WordNet ids of the development kit's classes 1 to 1000, or what reads them; None: not known.

    Raises:
        ValueError: the text is of no known kind, or counts classes and `of_numbers` is None.
    """
    if text.startswith("ImageId"):
        return dict(_label_of_row(row, path) for row in csv.DictReader(text.splitlines()))
    words = text.split()
    if words and all(WNID.fullmatch(word) for word in words):
        return dict(enumerate(words, 1))
    if words and all(word.isdecimal() for word in words):
        if of_numbers is None:
            raise ValueError(
                f"{path} counts classes in the development kit's own order, not that of the WordNet ids; "
                "add --meta data/meta.mat from ILSVRC2012_devkit_t12.tar.gz"
            )
        wnids = of_numbers() if callable(of_numbers) else of_numbers
        if not 1 <= min(map(int, words)) <= max(map(int, words)) <= len(wnids):
            raise ValueError(f"{path} has labels outside 1..{len(wnids)}; is it the validation ground truth?")
        return {number: wnids[int(word) - 1] for number, word in enumerate(words, 1)}
    raise ValueError(f"{path} is neither LOC_val_solution.csv, nor WordNet ids, nor the development kit's numbers")


def _label_of_row(row: dict[str, str], path: str) -> tuple[int, str]:
    image, label = row.get("ImageId") or "", row.get("PredictionString") or ""
    name, wnid = VAL_NAME.fullmatch(f"{image}.JPEG"), label.partition(" ")[0]
    if name is None or not WNID.fullmatch(wnid):
        raise ValueError(f"{path}: '{image},{label}' names no image with its WordNet id; download it again")
    return int(name[1]), wnid


def read_meta(file: Path | io.BytesIO, path: str | None = None) -> list[str]:
    """Return the WordNet ids of the development kit's classes 1 to 1000, from its meta.mat.

    Its struct array `synsets` has a row for each synset in the order of ILSVRC2012_ID; the first 1,000 are the classes.

    Raises:
        ValueError: it is another file.
    """
    path = path or str(file)
    from scipy.io import loadmat  # here: the other kinds of labels need no scipy

    try:
        synsets = loadmat(file, squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    except (ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{path} is not the meta.mat of ILSVRC2012_devkit_t12.tar.gz ({error})") from error
    missing = [number for number in range(1, 1001) if number not in wnids]
    if missing:
        raise ValueError(f"{path} is not the meta.mat of ILSVRC2012_devkit_t12.tar.gz: no class {missing[0]}")
    return [wnids[number] for number in range(1, 1001)]
