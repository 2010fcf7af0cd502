"""Image files listed in a CSV file, with their labels and, if it says so, their split."""

import codecs
import csv
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgcls.data.sets.files import FolderSplit
from imgcls.data.sets.folder import SetReport, sort_classes
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.splits import ImageSet
from imgcls.errors import did_you_mean

# What a column may be called where the config names none.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "target", "category"),
    "split": ("split", "set", "subset", "part", "fold_name"),
}
# Names that say so where there is none of those, as fastai's and Kaggle's tables have them.
OTHER_COLUMNS = {
    "path": ("name", "fname", "image_name", "image_id", "id", "id_code", "img", "img_path"),
    "label": ("labels", "diagnosis", "breed", "species", "y"),
    "split": ("is_valid", "is_val", "is_validation"),
}
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
PARTS |= {"test": "test", "testing": "test"}
IS_VALID = {"true": "val", "1": "val", "false": "train", "0": "train"}  # in a column is_valid
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Excel's "Unicode text" begins


class Row(NamedTuple):
    """An image of the table: the line it is on, its path as written, its label, and train, val or test."""

    line: int
    path: str
    label: str
    part: str


def open_csv(
    root: str | None,
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    channels: int = 3,
    holdout: Holdout | None = None,
    class_order: str = "text",
) -> ImageSet:
    """A CSV file with a line for each image: path, label, and train or val as its split, where it has that column.

    Paths are absolute, or relative to the folder of the file. Commas, semicolons and tabs separate columns. The classes
    are the labels, sorted.

    Args:
        class_order: text sorts the classes as text, natural by the numbers in them: 2 before 10.

    Raises:
        FileNotFoundError: there is no such file, or it names images that are not there.
        ValueError: a line that cannot be right, or no validation images and no `holdout`.
    """
    if root is None:
        raise ValueError("data.root is not set; name the CSV file, with the columns path, label: data.root=/labels.csv")
    file = Path(root).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"data.root={root} is no file; name a CSV file with the columns path and label")
    rows = _with_files(file, _read_rows(file, {"path": path_column, "label": label_column, "split": split_column}))
    _check_files(file, rows)
    classes = sort_classes({row.label for row in rows if row.part != "test"}, class_order)
    if len(classes) < 2:
        raise ValueError(f"{file} has {len(classes)} different labels; a classifier needs two or more")
    report = SetReport(classes)
    by_part = {part: [row for row in rows if row.part == part] for part in ("train", "val", "test")}
    if by_part["test"]:
        report.notes.append(f"{file}: left out: the {len(by_part['test']):,} images of its test split")
    training, validation = (_split(file, by_part[part], classes) for part in ("train", "val"))
    if not len(training):
        raise ValueError(f"{file} has no training images: none of its lines has the split train")
    if holdout is None and not len(validation):
        raise ValueError(
            f"{file} has no validation images; hold some of its images out: data.val_share=0.1 (or data.fold=0 "
            "data.num_folds=5), or add a column split with train and val"
        )
    if holdout is not None:
        if len(validation):
            raise ValueError(
                f"{holdout} would hold out training images, but {file} has validation images; leave it out"
            )
        training, validation = report.hold_out(training, holdout)
    report.all_classes(training.labels, validation.labels, class_order)
    return report.image_set(training, validation, channels)


def _read_rows(file: Path, columns: dict[str, str | None]) -> Iterator[Row]:
    data = file.read_bytes()
    encoding = "utf-16" if data.startswith(UTF_16) else "utf-8-sig"
    text = data.decode(encoding, errors="surrogateescape" if encoding == "utf-8-sig" else "replace")
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    path, label, split = (_find_column(file, kind, name, reader.fieldnames or []) for kind, name in columns.items())
    assert path is not None
    assert label is not None
    parts = IS_VALID if split is not None and split.strip().lower() in OTHER_COLUMNS["split"] else PARTS
    for cells in reader:
        line = reader.line_num
        where, name = (cells[path] or "").strip(), (cells[label] or "").strip()
        if not where or not name:
            raise ValueError(f"{file}, line {line}: no {label if where else path}; complete the line or remove it")
        part = "train" if split is None else parts.get((cells[split] or "").strip().lower())
        if part is None:
            raise ValueError(f"{file}, line {line}: {split} is {cells[split]!r}; use {_words(parts)}")
        yield Row(line, where, name, part)


def _words(parts: dict[str, str]) -> str:
    return "true or false" if parts is IS_VALID else "train, val or test"


def _with_files(file: Path, rows: Iterable[Row]) -> list[Row]:
    """Return the rows with paths as the files are called: / for a backslash, and the ending that is left out."""
    found = []
    stems: dict[str, dict[str, list[str]]] = {}  # of each folder, the endings of its files by their names without it
    for row in rows:
        path = os.path.join(file.parent, os.path.expanduser(row.path))
        if os.path.lexists(path):
            found.append(row)
            continue
        name = row.path.replace("\\", "/")
        folder, stem = os.path.split(os.path.join(file.parent, os.path.expanduser(name)))
        if folder not in stems:
            stems[folder] = _endings(folder)
        endings = stems[folder].get(stem, [])
        found.append(row._replace(path=name + (endings[0] if len(endings) == 1 else "")))
    return found


def _endings(folder: str) -> dict[str, list[str]]:
    try:
        names = sorted(map(os.path.splitext, os.listdir(folder)))
    except OSError:  # the rows' files are not there
        return {}
    return {stem: [ending for _, ending in pairs] for stem, pairs in itertools.groupby(names, key=lambda pair: pair[0])}


def _find_column(file: Path, kind: str, name: str | None, header: Sequence[str]) -> str | None:
    """Return the column of the given name, or of a usual one; None where there is no split."""
    if name is not None:
        if name in header:
            return name
        hint = did_you_mean(name, header)
        raise ValueError(
            f"data.source.{kind}_column={name}: {file} has no such column{hint}; it has {', '.join(header)}"
        )
    named = {column: column.strip().lower() for column in header}
    known = [column for column in header if named[column] in COLUMNS[kind]]
    known = known or [column for column in header if named[column] in OTHER_COLUMNS[kind]]
    if len(known) > 1:
        raise ValueError(
            f"{file} has several columns for the {kind} ({', '.join(known)}); name one: data.source.{kind}_column=..."
        )
    if not known and kind != "split":
        raise ValueError(
            f"{file} has no column {kind} in its first line, which is {','.join(header)[:100]!r}; name the columns "
            f"there, as path,label,split, or here: data.source.{kind}_column=..."
        )
    return known[0] if known else None


def _check_files(file: Path, rows: list[Row]) -> None:
    lines: dict[str, int] = {}
    gone: list[Row] = []
    for row in rows:
        path = os.path.normpath(os.path.join(file.parent, os.path.expanduser(row.path)))
        if path in lines:
            raise ValueError(
                f"{file}, line {row.line}: {row.path} is on line {lines[path]} already; remove one of them"
            )
        lines[path] = row.line
        if not os.path.exists(path):
            gone.append(row)
    if gone:
        first = gone[0]
        reason = "is a link to nothing" if os.path.islink(file.parent / first.path) else "is not there"
        if any("\udc80" <= letter <= "\udcff" for letter in first.path):
            reason += ", for the file is no UTF-8: save it so"
        more = f" ({len(gone):,} of {len(rows):,} files are not)" if len(gone) > 1 else ""
        raise FileNotFoundError(
            f"{file}, line {first.line}: {first.path} {reason}{more}; paths are relative to the folder of the CSV file"
        )


def _split(file: Path, rows: list[Row], classes: list[str]) -> FolderSplit:
    """Return the images of some rows, by path, so that the order of the lines changes nothing."""
    base = os.path.realpath(file.parent)
    label_of = {name: label for label, name in enumerate(classes)}
    named = sorted((_name(base, row.path), label_of[row.label]) for row in rows)
    return FolderSplit.of_names(base, [name for name, _ in named], np.array([label for _, label in named], np.int64))


def _name(base: str, path: str) -> bytes:
    return os.fsencode(os.path.relpath(os.path.join(base, os.path.expanduser(path)), base))
