"""ImageNet's three orders of classes agree with the real metadata, and every class has a name to show."""

import json
import os
from pathlib import Path

import pytest

from imgcls.data.sets import imagenet_classes, index_of_devkit_id, readable_names, validation_number, wnids


@pytest.fixture
def meta() -> Path:
    root = os.environ.get("IMGCLS_REAL_DATA")
    if not root or not (Path(root) / "imagenet-meta").is_dir():
        pytest.skip("IMGCLS_REAL_DATA names no folder with imagenet-meta/")
    return Path(root) / "imagenet-meta"


def test_there_are_a_thousand_classes_in_sorted_order() -> None:
    ids = wnids()
    assert len(ids) == 1000
    assert list(ids) == sorted(set(ids))
    assert sorted(index_of_devkit_id()) == list(range(1, 1001))


def test_known_classes_have_their_known_numbers() -> None:
    assert wnids()[0] == "n01440764"
    assert imagenet_classes()[0].name == "tench"
    assert index_of_devkit_id()[1] == wnids().index("n02119789")
    assert imagenet_classes()[index_of_devkit_id()[1]].name == "kit fox"


def test_class_indices_are_keras_indices(meta: Path) -> None:
    keras = json.loads((meta / "imagenet_class_index.json").read_text())
    for index, row in enumerate(imagenet_classes()):
        assert keras[str(index)] == [row.wnid, row.name.replace(" ", "_")]


def test_the_devkits_ground_truth_gives_the_validation_images_their_wnids(meta: Path) -> None:
    truth = [int(line) for line in (meta / "ILSVRC2012_validation_ground_truth.txt").read_text().split()]
    expected = (meta / "val_wnids.derived.txt").read_text().split()
    to_index, known = index_of_devkit_id(), wnids()
    assert len(truth) == 50_000
    assert [known[to_index[number]] for number in truth] == expected


def test_names_are_the_first_of_the_synsets(meta: Path) -> None:
    synsets = dict(line.split(" ", 1) for line in (meta / "synset_words.txt").read_text().splitlines())
    for row in imagenet_classes():
        assert synsets[row.wnid].split(",")[0].replace("_", " ").lower() == row.name.lower()


def test_two_classes_of_one_name_keep_their_wnids() -> None:
    shown = readable_names(wnids())
    assert len(set(shown)) == 1000
    assert shown[134] == "crane (n02012849)"
    assert shown[1] == "goldfish"
    assert readable_names(["cat", "dog"]) == ["cat", "dog"]


def test_validation_images_know_their_number() -> None:
    assert validation_number("val/n01440764/ILSVRC2012_val_00000293.JPEG") == 293
    assert validation_number("val/n01440764/293.JPEG") is None
