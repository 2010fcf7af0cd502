"""Sets of the Hugging Face hub, or saved by its package `datasets`, which fetches them and says what a column is.

What it keeps on disk are Arrow files, in which the bytes of an image stand as they are: each image is a range of a
file, so that they are indexed and read as shards are, and no image goes through `datasets`, which would decode it.
"""

import collections
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgcls.data.sets.containers import ContainerSplit, Contents, Part, index_contents, index_files
from imgcls.data.sets.files import file_size
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.parquet import IMAGE_COLUMNS, LABEL_COLUMNS
from imgcls.data.sets.shards import Found, ShardSplit, own_set
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import printable
from imgcls.errors import ConfigError, did_you_mean

VALIDATION_SPLITS = ("validation", "val", "valid", "dev")
SAVED = ("dataset_dict.json", "state.json")  # in a folder that save_to_disk wrote
AUTO = "auto"


class LooseSplit(ContainerSplit):
    """Image files that a table names by their paths: image i is the file number starts[i]."""

    def find(self, index: int) -> bytes:
        """Return the bytes of image `index`.

        Raises:
            OSError: they cannot be read.
        """
        return Path(self.path(index)).read_bytes()

    def path(self, index: int) -> str:
        """Return the file of image `index`."""
        return os.fsdecode(self._files[self.index.starts[index]])

    def holders(self) -> np.ndarray:
        """Return which file each image is: (N,) positions."""
        return self.index.starts

    def num_bytes(self, indices: np.ndarray) -> np.ndarray:
        """Return the sizes of the files of images `indices` (n,): (n,) int64; -1 of a file that is not there."""
        return np.array([file_size(self._files[place]) for place in self.index.starts[indices].tolist()], np.int64)


class Columns(NamedTuple):
    """The columns of a split that are used; `names` are those of its classes, where its labels count them."""

    image: str
    label: str
    names: list[str] | None


def open_hf(
    root: str | None = None,
    *,
    hub_name: str,
    train: str = "train",
    val: str = AUTO,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    channels: int = 3,
    holdout: Holdout | None = None,
    class_order: str = "text",
) -> ImageSet:
    """A set of the Hugging Face hub by its name, or a folder that `datasets` reads or wrote.

    Args:
        root: the folder, as save_to_disk writes it, or of images or tables; null for a set of the hub.
        hub_name: data.name, as `ylecun/mnist`; a folder too, where `root` is null.
        train, val: splits; `auto` takes the first of validation, val, valid and dev that is there, `none` no split.
        config: of a set that has several, as the hub shows them (subset).
        revision: a branch, tag or commit of the hub; null is the newest.
        image_column, label_column: where the types of the columns (Image, ClassLabel) do not say which they are.
        class_order: of classes by name: text sorts them as text, natural by the numbers in them.

    Raises:
        ConfigError: `datasets` is not installed; or the set cannot be fetched, or lacks a split or a column.
        ValueError: an image without bytes or without a label.
    """
    if root is None and hub_name in ("", "hf"):
        raise ConfigError(
            "data.name is not set; name a set of the hub: data.name=ylecun/mnist, or a folder that save_to_disk "
            "wrote: data.root=FOLDER"
        )
    key = f"data.root={root}" if root is not None else f"data.name={hub_name}"
    place = root if root is not None else hub_name
    splits = _load(key, place, config, revision)
    wanted = choose_splits(key, splits, train, val, without_val=holdout is not None)
    columns = [
        find_columns(f"{key}, split {name}", splits[name].features, image_column, label_column) for name in wanted
    ]
    parts = [_part(f"{key}, split {name}", splits[name], of) for name, of in zip(wanted, columns, strict=True)]
    if columns[0].names != columns[-1].names:
        raise ValueError(f"{key}: the splits {' and '.join(wanted)} name their classes differently; save both alike")
    if len({part.kind for part in parts}) > 1:
        raise ValueError(f"{key}: one of its splits has images, the other one paths of files; save both alike")
    left_out = f"; left out: {', '.join(name for name in splits if name not in wanted)}"
    note = f"found {key}: {' for training and '.join(wanted)}{' for validation' if len(wanted) > 1 else ''}"
    note += left_out if len(splits) > len(wanted) else ""
    validation = parts[1] if len(parts) > 1 else None
    found = Found(note, parts[0], validation, parts[0].files[0].parent, columns[0].names)
    return own_set(key, found, channels=channels, holdout=holdout, class_order=class_order)


def _load(key: str, place: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """Return the splits of a set by name; those of the hub are fetched, once, into the folder of `datasets`."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"{key}: data=hf needs the package datasets, which is not installed; pip install 'imgcls[hf]'"
        ) from None
    folder = Path(place).expanduser()
    try:
        if any((folder / name).is_file() for name in SAVED):
            loaded: Any = datasets.load_from_disk(str(folder), keep_in_memory=False)
        else:
            path = str(folder) if folder.exists() else place
            loaded = datasets.load_dataset(path, config, revision=revision, keep_in_memory=False)
    except Exception as error:  # of many kinds, as it reads many kinds of files
        raise ConfigError(f"{key} {explain(error)}") from None
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


def explain(error: Exception) -> str:
    """Return what is wrong with a set that `datasets` does not open, and what to do."""
    from datasets.exceptions import DatasetNotFoundError

    text = printable(" ".join(str(error).partition("Example of usage")[0].split()), lines=False)
    text = text or type(error).__name__
    if isinstance(error, DatasetNotFoundError):
        if "gated" in text:
            return "is gated: accept its terms on its page of huggingface.co, then log in with `hf auth login`"
        return "is no set of the hub, and no folder; check the name, or log in with `hf auth login` if it is private"
    if isinstance(error, ConnectionError):
        return (
            f"cannot be fetched ({text}); fetch it where there is a network, save it with save_to_disk, and name that "
            "folder: data.root=FOLDER"
        )
    if "onfig" in text and isinstance(error, ValueError):
        return f"has several configs ({text}); name one: data.source.config=NAME"
    if "scripts are no longer supported" in text:
        return "is a program, which is not run; take its copy in parquet: data.source.revision=refs/convert/parquet"
    if isinstance(error, IndexError) or "corresponds to no data" in text:
        return f"cannot be opened ({text}): one of its splits seems to be empty; save it again without that"
    return f"cannot be opened: {text}"


def choose_splits(key: str, splits: Mapping[str, Any], train: str, val: str, *, without_val: bool) -> list[str]:
    """Return the names of the training split and, if there is one, the validation split.

    Raises:
        ConfigError: a split is not there, or is empty.
    """
    there = ", ".join(splits)
    for part, name in (("train", train), ("val", val)):
        if name not in splits and (part == "train" or name not in (AUTO, "none")):
            raise ConfigError(
                f"data.source.{part}={name}: {key} has no such split{did_you_mean(name, list(splits))}; it has {there}"
            )
    chosen = next((name for name in VALIDATION_SPLITS if name in splits), None) if val == AUTO else val
    if chosen in (None, "none") and not without_val:
        other = next((name for name in splits if name != train), "NAME")
        raise ConfigError(
            f"{key} has no validation split, it has {there}; hold some of the training images out: data.val_share=0.1, "
            f"or name a split: data.source.val={other}"
        )
    wanted = [train, *([chosen] if chosen not in (None, "none") else [])]
    if empty := [name for name in wanted if not len(splits[name])]:
        raise ConfigError(f"{key}: the split {empty[0]} is empty; name another one")
    return wanted


def find_columns(
    place: str, features: Mapping[str, Any], image_column: str | None, label_column: str | None
) -> Columns:
    """Return the columns of images and labels, by their types: Image, and ClassLabel or else text or whole numbers.

    Raises:
        ConfigError: there is no such column, or there are several and none is named.
    """
    import datasets

    def is_plain(feature: Any, *types: str) -> bool:
        return isinstance(feature, datasets.Value) and feature.dtype.startswith(types)

    def find(kind: str, given: str | None, usual: Sequence[str], tests: Sequence[Any]) -> str:
        setting = f"data.source.{kind}_column"
        has = ", ".join(features)
        if given is not None and given not in features:
            raise ConfigError(
                f"{setting}={given}: {place} has no such column{did_you_mean(given, list(features))}; it has {has}"
            )
        for fits in tests:
            names = [name for name, feature in features.items() if fits(name, feature) and given in (None, name)]
            if len(names) > 1:
                names = [name for name in usual if name in names][:1] or names
            if len(names) == 1:
                return names[0]
            if names:
                raise ConfigError(
                    f"{place} has several columns of {kind}s: {', '.join(names)}; name one: {setting}=..."
                )
        if given is not None:
            raise ConfigError(f"{setting}={given}: this column of {place} holds no {kind}s but {features[given]}")
        raise ConfigError(f"{place} has no column of {kind}s; it has {has}; name one: {setting}=...")

    image = find(
        "image",
        image_column,
        IMAGE_COLUMNS,
        [
            lambda _, feature: isinstance(feature, datasets.Image),
            lambda name, feature: (
                is_plain(feature, "binary", "large_binary") and name in (image_column, *IMAGE_COLUMNS)
            ),
        ],
    )
    label = find(
        "label",
        label_column,
        LABEL_COLUMNS,
        [
            lambda _, feature: isinstance(feature, datasets.ClassLabel),
            lambda name, feature: (
                is_plain(feature, "int", "uint", "string", "large_string") and name in (label_column, *LABEL_COLUMNS)
            ),
        ],
    )
    names = getattr(features[label], "names", None)
    return Columns(image, label, names and [printable(name, lines=False) for name in names])


def _part(place: str, split: Any, columns: Columns) -> Part:
    first = split.data.column(columns.image)[0].as_py()
    if isinstance(first, dict) and first.get("bytes") is None and first.get("path"):
        return _loose_files(place, split, columns)
    files = [Path(file["filename"]) for file in split.cache_files]
    read = functools.partial(read_arrow, columns=columns)
    part = Part(files, index_files(files, read, kind=f"arrow {columns.image} {columns.label}"), ShardSplit)
    if len(part.index.starts) != len(split):
        raise ValueError(f"{place}: its files have {len(part.index.starts):,} rows, not {len(split):,}; save it again")
    return part


def read_arrow(path: Path, columns: Columns) -> Contents:
    """Return the images of an Arrow file with their labels.

    Raises:
        ValueError: it is not whole, or a row has no image or no label.
    """
    import pyarrow

    contents = Contents([], [], [], [], collections.Counter())
    try:
        with pyarrow.memory_map(str(path)) as source:
            base = source.read_buffer()
            source.seek(0)
            for batch in pyarrow.ipc.open_stream(source):
                _add_rows(path, batch, base, columns, contents)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as an Arrow file ({reason}); fetch or save the set again") from None
    return contents


def _add_rows(path: Path, batch: Any, base: Any, columns: Columns, contents: Contents) -> None:
    first = len(contents.names)
    column = batch.column(columns.image)
    is_struct = hasattr(column, "field")
    data = column.field("bytes") if is_struct else column
    paths = column.field("path").to_pylist() if is_struct else [None] * len(column)
    missing = np.flatnonzero(np.logical_or(column.is_null(), data.is_null()))
    if len(missing):
        name = paths[missing[0]]
        raise ValueError(f"{path}: row {first + missing[0]} has no bytes of an image, only {name!r}; embed the images")
    _, ends, values = data.buffers()
    width = np.int64 if str(data.type).startswith("large") else np.int32
    offsets = np.frombuffer(ends, width)[data.offset : data.offset + len(data) + 1].astype(np.int64)
    begin = values.address - base.address
    if not 0 <= begin <= begin + values.size <= base.size:
        raise ValueError(f"{path}: its columns are compressed; save the set again with save_to_disk")
    contents.names.extend(
        os.fsencode(name) if name else f"{path.stem}-{row:07}".encode() for row, name in enumerate(paths, first)
    )
    contents.labels.extend(_labels(path, batch.column(columns.label).to_pylist(), columns, first))
    contents.starts.extend((begin + offsets[:-1]).tolist())
    contents.sizes.extend((size,) for size in np.diff(offsets).tolist())


def _labels(place: Path | str, labels: list[Any], columns: Columns, first: int) -> list[str]:
    for row, label in enumerate(labels, first):
        if label is None or (columns.names is not None and label < 0):
            raise ValueError(f"{place}: row {row} has no {columns.label}, as in test splits; name another split")
    return [str(label).strip() for label in labels]


def _loose_files(place: str, split: Any, columns: Columns) -> Part:
    images, labels = (split.data.column(name).to_pylist() for name in (columns.image, columns.label))
    paths = [image["path"] if image and image["bytes"] is None else None for image in images]
    for row, path in enumerate(paths):
        if path is None or (row == 0 and not os.path.isfile(path)):
            raise ValueError(f"{place}: row {row} names no file on this machine, but {path!r}; embed the images")
    files = [os.path.abspath(path) for path in paths if path is not None]
    base = os.path.commonpath([os.path.dirname(file) for file in files])
    names = [os.fsencode(os.path.relpath(file, base)) for file in files]
    texts = _labels(place, labels, columns, 0)
    contents = Contents(names, texts, list(range(len(files))), [(0,)] * len(files), collections.Counter())
    return Part([Path(file) for file in files], index_contents(contents), LooseSplit)
