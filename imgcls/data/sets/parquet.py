"""Images in parquet files as Hugging Face writes them, read in place by an index."""

import collections
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls.data.sets.containers import ContainerSplit, Contents, Part, check_has_images, index_files
from imgcls.data.sets.holdout import Holdout
from imgcls.data.sets.parquet_pages import Value, read_pages, unpack, unpack_blocks
from imgcls.data.sets.parts import find_parts, is_pattern, is_url, local_root
from imgcls.data.sets.shards import Found, on_disk, own_set
from imgcls.data.sets.splits import ImageSet
from imgcls.environment import printable
from imgcls.errors import ConfigError, did_you_mean

PARQUET = (".parquet",)
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class", "target")
CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD", "LZ4")
CUT = 1 << 16  # set in the number of a codec whose blocks were cut out of a page


class ParquetSplit(ContainerSplit):
    """Images in parquet files: sizes[i] are length, stored, unpacked and skip of `Value`, and the codec's number."""

    def find(self, index: int) -> bytes:
        """Return the bytes of image `index`.

        Raises:
            OSError, ValueError: they cannot be read.
        """
        length, stored, unpacked, skip, codec = self.index.sizes[index].tolist()
        data = self.pread(int(self.index.files[index]), stored, int(self.index.starts[index]))
        if not unpacked:
            return data
        content = unpack_blocks(data, unpacked) if codec & CUT else unpack(CODECS[codec], data, unpacked)
        return content[skip : skip + length]


def open_parquet(
    root: str | None,
    *,
    train: str = "train",
    val: str = "val",
    channels: int = 3,
    image_column: str | None = None,
    label_column: str | None = None,
    holdout: Holdout | None = None,
    class_order: str = "text",
) -> ImageSet:
    """A set in parquet files as Hugging Face's hub has them, train-*.parquet and validation-*.parquet, read in place.

    A row is an image, a struct of its bytes and its path, and a label: a number from 0, or the name of a class. The
    names of numbered classes are in the files' own metadata.

    Args:
        root: a folder of files, a pattern (`/data/train-*.parquet`), or a URL of these.
        train, val: folders below the root, or patterns.
        image_column, label_column: where they are not called `image` and `label`, or as usual otherwise.
        class_order: of classes by name: text sorts them as text, natural by the numbers in them.

    Raises:
        FileNotFoundError: there are no files, or not all that are named.
        ValueError: pyarrow is not there; a file that is not whole or lacks a column; labels that are no classes.
    """
    if root is None:
        raise ValueError("data.root is not set; name a folder of parquet files: data.root=/data/parquet")
    found = find_parquet(root, train, val, image_column=image_column, label_column=label_column)
    if found is None:
        raise FileNotFoundError(f"data.root={root}: there are no .parquet files; name their folder, or a pattern")
    return own_set(f"data.root={root}", found, channels=channels, holdout=holdout, class_order=class_order)


def find_parquet(
    root: str, train: str, val: str, *, image_column: str | None = None, label_column: str | None = None
) -> Found | None:
    """Find the parquet files of a set and index them; None if there are none.

    Raises:
        FileNotFoundError: not all that a pattern names are there.
        ValueError: pyarrow is not there, or a file is not whole or lacks a column.
    """
    parts = find_parts(local_root(root), train, val, PARQUET)
    if not parts.train and not parts.val:
        return None
    _check_pyarrow(root)
    training, validation = (on_disk(files) for files in (parts.train, parts.val))

    def read(path: Path) -> Contents:
        return read_parquet(path, image_column, label_column)

    kind = f"parquet {image_column} {label_column}"
    found = [
        check_has_images(Part(files, index_files(files, read, kind=kind), ParquetSplit), f"{word} files")
        if files
        else None
        for files, word in ((training, "training"), (validation, "validation"))
    ]
    left_out = f"; left out: {len(parts.test)} of a test part" if parts.test else ""
    note = f"found {len(training)} parquet files for training and {len(validation)} for validation{left_out}"
    first = (training or validation)[0]
    names = _class_names(first, label_column)
    return Found(note, found[0], found[1], first.parent, names)


def holds_parquet(root: str) -> bool:
    """Return True if `root` is a parquet file, a pattern of them, or a folder with some in it."""
    place = local_root(root)
    if is_pattern(place) or is_url(place) or os.path.isfile(place):
        return place.endswith(PARQUET)
    folders = [place, *(os.path.join(place, part) for part in ("train", "val", "data"))]
    return any(name.endswith(PARQUET) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))


def _check_pyarrow(root: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"data.root={root}: parquet files need pyarrow, which is not installed; pip install 'imgcls[parquet]'"
        ) from None


def read_parquet(path: Path, image_column: str | None, label_column: str | None) -> Contents:
    """Return the images of a parquet file with their labels.

    Raises:
        ValueError: it is not whole, lacks a column, or a row has no image or no label.
    """
    file = _open(path)
    columns = _find_columns(path, file, image_column, label_column)
    contents = Contents([], [], [], [], collections.Counter())
    with path.open("rb") as stream:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if not group.num_rows:
                continue
            (leaf,) = [
                place for place in range(group.num_columns) if group.column(place).path_in_schema == columns.bytes
            ]
            column = group.column(leaf)
            start = min(
                place for place in (column.dictionary_page_offset, column.data_page_offset) if place is not None
            )
            stream.seek(start)
            chunk = stream.read(column.total_compressed_size)
            has_levels = file.schema.column(leaf).max_definition_level > 0
            if column.compression not in CODECS:
                raise ValueError(f"{path}: its images are packed by {column.compression}, which is not read here")
            try:
                places = _places(chunk, start, column.compression, has_levels=has_levels)
                _add_rows(path, file, number, columns, places, CODECS.index(column.compression), contents)
            except (ValueError, IndexError, KeyError, OSError) as error:
                raise ValueError(f"{path}, row group {number}: {error}") from None
    return contents


class _Columns:
    """The columns of a file: `bytes` and `path` are those of the image, below its name if it is a struct."""

    def __init__(self, image: str, label: str, *, is_struct: bool, has_path: bool) -> None:
        self.image, self.label, self.is_struct = image, label, is_struct
        self.bytes = f"{image}.bytes" if is_struct else image
        self.path = f"{image}.path" if has_path else None


def _open(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(error.errno, os.strerror(error.errno or 0), str(path)) from None  # pyarrow's words are many
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is no parquet file, or its end, where the list of its parts is, is missing ({reason}); download "
            "it again"
        ) from None


def _find_columns(path: Path, file: Any, image: str | None, label: str | None) -> _Columns:
    import pyarrow

    schema = file.schema_arrow

    def find(kind: str, given: str | None, usual: Sequence[str], fits: Any) -> str:
        if given is not None and given not in schema.names:
            raise ValueError(
                f"data.source.{kind}_column={given}: {path} has no such column{did_you_mean(given, schema.names)}; it "
                f"has {', '.join(schema.names)}"
            )
        names = [given] if given is not None else [name for name in usual if name in schema.names]
        if chosen := next((name for name in names if fits(schema.field(name).type)), None):
            return chosen
        what = "images (bytes, or a struct of bytes and path)" if kind == "image" else "labels (numbers or names)"
        raise ValueError(
            f"{path} has no column of {what}; it has {', '.join(schema.names)}; name one: data.source.{kind}_column=..."
        )

    types = pyarrow.types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_image(kind: Any) -> bool:
        return is_bytes(kind) or (types.is_struct(kind) and any(f.name == "bytes" and is_bytes(f.type) for f in kind))

    def is_label(kind: Any) -> bool:
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    chosen = find("image", image, IMAGE_COLUMNS, is_image)
    kind = schema.field(chosen).type
    has_path = types.is_struct(kind) and any(field.name == "path" for field in kind)
    return _Columns(
        chosen, find("label", label, LABEL_COLUMNS, is_label), is_struct=types.is_struct(kind), has_path=has_path
    )


def _places(chunk: bytes, start: int, codec: str, *, has_levels: bool) -> dict[bytes, tuple[Value, bool]]:
    """Return where each image of a row group is, and whether blocks are cut out of a page, by the image's bytes."""
    places: dict[bytes, tuple[Value, bool]] = {}
    for page in read_pages(chunk, start, codec, has_levels=has_levels):
        for value, place in page.values():
            places[bytes(value)] = place, page.cuts is not None
    return places


def _add_rows(
    path: Path,
    file: Any,
    number: int,
    columns: _Columns,
    places: dict[bytes, tuple[Value, bool]],
    codec: int,
    contents: Contents,
) -> None:
    # By its bytes: which of the values a row has, pyarrow knows best, with dictionaries and nulls.
    wanted = [name for name in (columns.bytes, columns.path, columns.label) if name is not None]
    table = file.read_row_group(number, columns=wanted)
    images, labels = table.column(columns.image).to_pylist(), table.column(columns.label).to_pylist()
    first = len(contents.names)
    for row, (image, label) in enumerate(zip(images, labels, strict=True), first):
        data, name = (image.get("bytes"), image.get("path")) if columns.is_struct and image else (image, None)
        if data is None:
            raise ValueError(f"row {row} has no bytes of an image, only {name!r}; store the images in the files")
        if label is None:
            raise ValueError(f"row {row} has no {columns.label}")
        value, is_cut = places[data]
        contents.names.append(os.fsencode(name) if name else f"{path.stem}-{row:07}".encode())
        contents.labels.append(str(label).strip())
        contents.starts.append(value.start)
        contents.sizes.append((value.length, value.stored, value.unpacked, value.skip, codec | (CUT if is_cut else 0)))


def _class_names(path: Path, label_column: str | None) -> list[str] | None:
    """Return the names of the classes, where Hugging Face has written them into the schema's metadata."""
    metadata = (_open(path).schema_arrow.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata)["info"]["features"] if metadata else {}
        usual = [name for name in LABEL_COLUMNS if name in features]
        names = features[label_column or usual[0]]["names"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return [printable(name, lines=False) for name in names] if named else None
