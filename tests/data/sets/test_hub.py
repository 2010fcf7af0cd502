"""Sets of the Hugging Face hub, from folders that `datasets` itself wrote or reads; nothing is fetched."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.config import compose
from imgcls.data.sets import ContainerSplit, ImageSet, open_image_set
from imgcls.data.sets.hub import choose_splits, explain, find_columns

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("cache")
FEATURES = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})


@pytest.fixture(autouse=True, scope="session")
def _quiet(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("hf")  # what it makes of tables and folders


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def split(values: Sequence[int], labels: Sequence[Any] | None = None, features: Any = FEATURES) -> Any:
    rows = {
        "picture": [{"bytes": png(value), "path": f"{value:03}.png"} for value in values],
        "kind": [value % 2 for value in values] if labels is None else labels,
    }
    return datasets.Dataset.from_dict(rows, features=features)


def save(folder: Path, **splits: Any) -> Path:
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def opened(*words: str | Path) -> ImageSet:
    return open_image_set(compose(["data=hf", *map(str, words)]))


def content(images: object) -> list[tuple[str, bytes, int]]:
    assert isinstance(images, ContainerSplit)
    return [(os.fsdecode(images.name(i)), images.read(i), int(images.labels[i])) for i in range(len(images))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits, that of training in two files."""
    folder = tmp_path_factory.mktemp("saved")
    splits = {"train": split(range(7)), "validation": split([8, 9]), "test": split([10, 11])}
    datasets.DatasetDict(splits).save_to_disk(folder, num_shards={"train": 2, "validation": 1, "test": 1})
    return folder


EXPECTED = [(f"{value:03}.png", png(value), value % 2) for value in (0, 2, 4, 6, 1, 3, 5)]


@pytest.mark.parametrize("key", ["root", "name"])
def test_a_saved_set_is_read_by_the_types_of_its_columns_and_undecoded(saved, key):
    images = opened(f"data.{key}={saved}")
    assert images.notes == (
        f"found data.{key}={saved}: train for training and validation for validation; left out: test",
    )
    assert (images.classes, content(images.train)) == (["cat", "dog"], EXPECTED)
    assert [row[0] for row in content(images.val)] == ["008.png", "009.png"]
    assert images.train.path(6).endswith("train/data-00001-of-00002.arrow:005.png")


def test_tables_and_folders_of_images_are_the_same_set(saved, tmp_path):
    table, folder = tmp_path / "table", tmp_path / "folder"
    for part, values in (("train", range(7)), ("validation", [8, 9])):
        split(values).to_parquet(table / f"{part}.parquet")
        for value in values:
            file = folder / part / ("dog" if value % 2 else "cat") / f"{value:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(value))
    assert opened(f"data.root={table}").identity() == opened(f"data.root={saved}").identity()
    images = opened(f"data.root={folder}")
    found = content(images.train)
    assert [row[1:] for row in found] == [row[1:] for row in EXPECTED]
    assert [row[0] for row in found[3:5]] == ["cat/006.png", "dog/001.png"]
    assert images.train.path(0) == f"{folder}/train/cat/000.png"
    assert opened(f"data.name={folder}/train", "data.source.val=none", "data.val_share=0.3").train.pixels(
        0, 3
    ).shape == (4, 5, 3)


def test_splits_and_columns_may_be_named_and_images_held_out(saved, tmp_path):
    assert [row[0] for row in content(opened(f"data.root={saved}", "data.source.val=test").val)] == [
        "010.png",
        "011.png",
    ]
    split(
        range(6), ["owl", "bee"] * 3, datasets.Features({"picture": datasets.Image(), "kind": datasets.Value("string")})
    ).save_to_disk(tmp_path / "one")
    images = opened(f"data.root={tmp_path}/one", "data.source.label_column=kind", "data.val_share=0.4")
    assert (images.classes, len(images.train), len(images.val)) == (["bee", "owl"], 4, 2)


def test_columns_are_found_by_type_then_by_name():
    several = {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "fine_label": datasets.ClassLabel(2),
        "coarse_label": datasets.ClassLabel(2),
    }
    assert find_columns("x", several, None, None)[:2] == ("image", "fine_label")
    assert find_columns("x", several, "mask", "coarse_label")[:2] == ("mask", "coarse_label")
    plain = {"id": datasets.Value("int64"), "img": datasets.Value("binary"), "label": datasets.Value("int32")}
    assert find_columns("x", plain, None, None) == ("img", "label", None)


REFUSED = [
    (
        "data.source.train=trian",
        r"train=trian: data\.root=\S+ has no such split \(did you mean train\?\); it has train, ",
    ),
    ("data.source.image_column=kind", r"image_column=kind: this column of .*, split train holds no images"),
    ("data.source.label_column=knid", r"no such column \(did you mean kind\?\); it has picture, kind"),
    ("data.val_share=0.1", r"data\.root=\S+ has validation images; leave it out, or .*data\.source\.val=none"),
    ("data.source.val=none", r"no validation split, it has train, validation, test; .*data\.val_share=0\.1"),
]


@pytest.mark.parametrize("word, message", REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_one_clear_line(saved, word, message):
    with pytest.raises(ValueError, match=message) as raised:
        opened(f"data.root={saved}", word)
    assert "\n" not in str(raised.value)


def test_a_set_without_images_labels_or_a_validation_split_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match=r"data\.name is not set; name a set of the hub: data\.name=ylecun/mnist"):
        opened()
    with pytest.raises(ValueError, match=r"it has train, test; .* or name a split: data\.source\.val=test"):
        opened(f"data.root={save(tmp_path / 'two', train=split(range(4)), test=split([5]))}")
    with pytest.raises(ValueError, match=r"one of its splits seems to be empty"):
        opened(f"data.root={save(tmp_path / 'empty', train=split(range(4)), validation=split([]))}")
    with pytest.raises(ValueError, match=r"x: the split validation is empty"):
        choose_splits("x", {"train": [1], "validation": []}, "train", "auto", without_val=False)
    with pytest.raises(ValueError, match=r"row 1 has no kind, as in test splits; name another split"):
        opened(f"data.root={save(tmp_path / 'bare', train=split(range(4)), validation=split([1, 2], [0, -1]))}")
    text = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    with pytest.raises(ValueError, match=r"split train has no column of images; it has text, label; name one: "):
        opened(f"data.root={save(tmp_path / 'text', train=text, validation=text)}")
    other = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dog", "cat"])})
    with pytest.raises(ValueError, match=r"train and validation name their classes differently"):
        opened(f"data.root={save(tmp_path / 'other', train=split(range(4)), validation=split([1], None, other))}")


def test_a_file_that_is_cut_short_is_named(saved, tmp_path):
    folder = save(tmp_path / "cut", train=split(range(4)), validation=split([5]))
    file = folder / "train/data-00000-of-00001.arrow"
    data = file.read_bytes()
    for share in (0.2, 0.6, 0.8):
        file.write_bytes(data[: int(share * len(data))])
        with pytest.raises(
            ValueError, match=r"(data-00000-of-00001\.arrow cannot be read|data\.root=\S+ cannot be opened)"
        ):
            opened(f"data.root={folder}")


def test_why_the_hub_gives_no_set_is_said_with_the_way_out():
    missing = datasets.exceptions.DatasetNotFoundError
    configs = "Config name is missing.\nPlease pick one among: ['x', 'y']\nExample of usage:\n\t`load()`"
    for error, message in (
        (missing("Dataset 'a/b' is a gated dataset on the Hub."), "is gated: accept its terms on its page"),
        (missing("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."), "is no set of the hub, and no"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "save it with save_to_disk, and name that folder"),
        (ValueError(configs), "missing. Please pick one among: ['x', 'y']); name one: data.source.config=NAME"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "revision=refs/convert/parquet"),
        (OSError(""), "cannot be opened: OSError"),
    ):
        assert message in explain(error)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=r"data\.name=ylecun/mnist: .*not installed; pip install 'imgcls\[hf\]'"):
        opened("data.name=ylecun/mnist")
