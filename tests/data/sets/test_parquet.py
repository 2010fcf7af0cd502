"""Parquet files: where the images are in their pages, what is read of them, and what is refused with which words."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.data.sets import ContainerSplit, Holdout, open_parquet, parquet_pages

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("cache")
NAMED = {b"huggingface": b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'}


def image(seed: int, side: int = 12) -> bytes:
    """A PNG that packs well in parts: noise beside flat colour."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    pixels[: side // 2] = seed
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def rows(numbers: Sequence[int], side: int = 12) -> list[dict[str, Any]]:
    return [{"image": {"bytes": image(n, side), "path": f"{n:03}.png"}, "label": n % 2} for n in numbers]


def write(
    file: Path, content: Sequence[dict[str, Any]], *, metadata: dict[bytes, bytes] | None = None, **how: Any
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(content))
    pq.write_table(table.replace_schema_metadata(metadata), file, **{"row_group_size": 4, **how})
    return file


def write_set(root: Path, **how: Any) -> Path:
    write(root / "data/train-00000-of-00002.parquet", rows(range(6)), **how)
    write(root / "data/train-00001-of-00002.parquet", rows(range(6, 9)), **how)
    write(root / "data/validation-00000-of-00001.parquet", rows(range(20, 24)), **how)
    return root


def images_of(split: object) -> dict[str, tuple[bytes, int]]:
    assert isinstance(split, ContainerSplit)
    return {os.fsdecode(split.name(i)): (split.read(i), int(split.labels[i])) for i in range(len(split))}


HOW = {
    "as pandas writes": {},
    "as datasets writes": {"row_group_size": 100, "use_dictionary": False, "write_page_index": True},
    "not packed": {"compression": "none"},
    "a dictionary and several pages": {"data_page_size": 2000, "dictionary_pagesize_limit": 100, "write_batch_size": 1},
    "pages of version 2": {"data_page_version": "2.0", "use_dictionary": False},
    "version 2 with a dictionary, not packed": {"data_page_version": "2.0", "compression": "none"},
    "zstd": {"compression": "zstd"},
    "gzip": {"compression": "gzip"},
    "brotli": {"compression": "brotli"},
    "lz4": {"compression": "lz4"},
}


@pytest.mark.parametrize("side", [12, 300])  # 300: images of 270 KB, over several of Snappy's blocks
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_every_image_is_found_however_the_file_was_written(tmp_path, how, side):
    if side == 300 and how.get("compression") not in (None, "none"):
        pytest.skip("whole pages, whatever the size")
    content = rows(range(7), side)
    content[3] = {"image": {"bytes": content[1]["image"]["bytes"], "path": "twice.png"}, "label": 0}
    write(tmp_path / "train.parquet", content, **how)
    write(tmp_path / "val.parquet", rows(range(20, 24)))
    found = images_of(open_parquet(str(tmp_path)).train)
    assert found == {row["image"]["path"]: (row["image"]["bytes"], row["label"]) for row in content}


def test_of_a_page_that_snappy_packed_only_the_blocks_around_an_image_are_read(tmp_path):
    write(tmp_path / "train.parquet", rows(range(40), 100), row_group_size=40)
    split = open_parquet(str(tmp_path), holdout=Holdout(share=0.1)).train
    assert isinstance(split, ContainerSplit)
    lengths, stored, unpacked = split.index.sizes[:, :3].T
    assert lengths.max() < 31_000
    assert unpacked.max() <= 2 * parquet_pages.SNAPPY_BLOCK
    assert stored.max() < 2 * parquet_pages.SNAPPY_BLOCK
    assert (tmp_path / "train.parquet").stat().st_size > 9 * parquet_pages.SNAPPY_BLOCK


def test_blocks_that_refer_back_to_others_are_not_cut():
    literal = b"\xf4\xff\xff" + bytes(65536)  # a block of 65,536 bytes as they are
    assert parquet_pages.find_cuts(b"\x80\x80\x08" + literal + literal) == [3, 65542, 131081]
    back_over_the_boundary = b"\xfe\x0a\x00"  # 64 bytes from 10 back
    assert parquet_pages.find_cuts(b"\xc0\x80\x04" + literal + back_over_the_boundary) is None


def test_parts_order_and_names_of_classes(tmp_path):
    images = open_parquet(str(write_set(tmp_path, metadata=NAMED)))
    assert images.notes[0] == "found 2 parquet files for training and 1 for validation"
    assert images.classes == ["cat", "dog"]
    assert images.train.labels.tolist() == [0] * 5 + [1] * 4
    assert list(images_of(images.train)) == [f"{n:03}.png" for n in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    assert images.train.path(8) == f"{tmp_path}/data/train-00001-of-00002.parquet:007.png"
    assert open_parquet(str(write_set(tmp_path / "other"))).classes == ["0", "1"]


@pytest.mark.parametrize("column", ["img", "picture", "scan"])
def test_columns_of_other_names_and_plain_bytes(tmp_path, column):
    for part in ("train", "val"):
        content = [{column: image(n), "fine": "owl" if n else "bee", "id": n} for n in range(3)]
        write(tmp_path / f"{part}.parquet", content)
    images = open_parquet(str(tmp_path), label_column="fine", image_column="scan" if column == "scan" else None)
    assert (images.classes, images.train.labels.tolist()) == (["bee", "owl"], [0, 1, 1])
    assert list(images_of(images.train)) == [f"train-{n:07}" for n in range(3)]


def without(key: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != key} for row in rows(range(3))]


REFUSED = [
    (
        without("label"),
        {},
        r"train\.parquet has no column of labels \(numbers or names\); it has image; name one: data\.",
    ),
    (without("image"), {}, r"no column of images \(bytes, or a struct of bytes and path\); it has label; name one"),
    (rows([0, 1]), {"label_column": "labl"}, r"label_column=labl: .*no such column \(did you mean label\?\); it has"),
    (
        [{"image": {"bytes": None, "path": "a.png"}, "label": 0}, *rows([1])],
        {},
        r"row 0 has no bytes of an image, only",
    ),
    ([{**rows([0])[0], "label": None}, *rows([1])], {}, r"row 0 has no label"),
    ([{**rows([0])[0], "label": -1}, *rows([1])], {}, r"label -1 is no class; labels count from 0"),
]


@pytest.mark.parametrize("content, settings, message", REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_one_clear_line(tmp_path, content, settings, message):
    write(tmp_path / "train.parquet", content)
    write(tmp_path / "val.parquet", content)
    with pytest.raises(ValueError, match=message) as raised:
        open_parquet(str(tmp_path), **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_file_that_is_cut_short_or_damaged_is_refused_by_name(tmp_path, share):
    file = write(tmp_path / "train.parquet", rows(range(8)))
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"train\.parquet is no parquet file, or its end, .* is missing"):
        open_parquet(str(tmp_path), holdout=Holdout(share=0.2))
    file.write_bytes(data[:100] + bytes(400) + data[500:])
    with pytest.raises(ValueError, match=r"train\.parquet, row group 0: "):
        open_parquet(str(tmp_path), holdout=Holdout(share=0.2))


def test_a_part_without_rows_is_refused_and_an_empty_file_beside_others_is_not(tmp_path):
    empty = pa.Table.from_pylist(rows(range(3))).slice(0, 0)
    pq.write_table(empty, write(tmp_path / "train-1.parquet", rows(range(3))).with_name("train-2.parquet"))
    write(tmp_path / "val.parquet", rows([4]))
    assert len(open_parquet(str(tmp_path)).train) == 3
    pq.write_table(empty, tmp_path / "val.parquet")
    with pytest.raises(ValueError, match=r"val\.parquet: the validation files hold no images; name others"):
        open_parquet(str(tmp_path))


def test_a_missing_file_of_a_pattern_and_no_files_are_named(tmp_path):
    root = str(write_set(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"train-00002-of-00002\.parquet is not there \(1 of 3 are not\)"):
        open_parquet(f"{root}/data/train-{{00000..00002}}-of-00002.parquet")
    with pytest.raises(FileNotFoundError, match=r"there is no such file or folder"):
        open_parquet(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there are no \.parquet files"):
        open_parquet(str(tmp_path / "empty"))
