"""ImageNet in the forms in which people have it: the same images in the same order, whatever the form."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.io import savemat

from imgcls.commands.subset import Numbers, choose, write_tar
from imgcls.config import compose
from imgcls.data.augment import CenterCrop
from imgcls.data.decoding import BadImageError, Plan, native
from imgcls.data.sets import (
    FileSplit,
    ImageSet,
    archives,
    imagenet_classes,
    make_pack,
    open_image_set,
    pack_names,
    wnids,
)
from imgcls.data.sets.archives import Index, index_archive

pytestmark = pytest.mark.usefixtures("cache")
ROWS = imagenet_classes()[5:8]
# Validation images by number: not in the order of the classes.
VAL = {1: ROWS[2], 2: ROWS[0], 3: ROWS[1], 4: ROWS[0], 5: ROWS[2]}


def jpeg(key: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(key).integers(0, 255, (20 + key % 3, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture
def sorted_set(tmp_path: Path) -> Path:
    """Form 1: train/<wnid>, val/<wnid>."""
    root = tmp_path / "sorted"
    for row in ROWS:
        for number in (3, 10, 2):
            file = root / "train" / row.wnid / f"{row.wnid}_{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(row.devkit_id * 100 + number))
    for number, row in VAL.items():
        file = root / "val" / row.wnid / val_name(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))
    return root


def write_truth(folder: Path, of: Sequence[int] = tuple(VAL)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{VAL[number].devkit_id}\n" for number in of)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def write_devkit(folder: Path, *, meta: bool = True, of: Sequence[int] = tuple(VAL)) -> Path:
    data = folder / "devkit-tmp/ILSVRC2012_devkit_t12/data"
    write_truth(data, of)
    if meta:
        rows = [(row.devkit_id, row.wnid) for row in imagenet_classes()]
        synsets = np.array(rows, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
        savemat(data / "meta.mat", {"synsets": synsets})
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(folder / "devkit-tmp/ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    shutil.rmtree(folder / "devkit-tmp")
    return folder / "ILSVRC2012_devkit_t12.tar.gz"


def write_kaggle_labels(folder: Path) -> None:
    rows = [f"ILSVRC2012_val_{number:08},{row.wnid} 1 2 3 4 " for number, row in reversed(VAL.items())]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))


def flat(source: Path, target: Path) -> Path:
    """Train by class, and val flat."""
    shutil.copytree(source / "train", target / "train")
    (target / "val").mkdir()
    for file in source.glob("val/*/*"):
        shutil.copy(file, target / "val" / file.name)
    return target


def kaggle(source: Path, target: Path) -> Path:
    flat(source, target / "ILSVRC/Data/CLS-LOC")
    (target / "ILSVRC/Data/CLS-LOC/test").mkdir()
    write_kaggle_labels(target)
    return target


def flat_with_devkit(source: Path, target: Path) -> Path:
    flat(source, target)
    write_devkit(target)
    return target


def flat_with_truth(source: Path, target: Path) -> Path:
    flat(source, target)
    write_truth(target / "ILSVRC2012_devkit_t12/data")
    return target


def flat_with_wnids(source: Path, target: Path) -> Path:
    flat(source, target)
    lines = "".join(f"{row.wnid}\n" for row in VAL.values())
    (target / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
    return target


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def archived(source: Path, target: Path, *, meta: bool = True) -> Path:
    target.mkdir(parents=True)
    with tarfile.open(target / "ILSVRC2012_img_train.tar", "w") as outer:
        for row in reversed(ROWS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for file in (source / "train" / row.wnid).iterdir():
                    add(archive, file.name, file.read_bytes())
            add(outer, f"{row.wnid}.tar", inner.getvalue())
    with tarfile.open(target / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in reversed(VAL):
            add(archive, val_name(number), next(source.glob(f"val/*/{val_name(number)}")).read_bytes())
    write_devkit(target, meta=meta)
    return target


def write_shards(folder: Path, files: Sequence[Path], pattern: str, *, number_of: Callable[[Path], str]) -> None:
    """Write two images a shard, in an order that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(files, key=lambda file: file.name[::-1])
    for number, first in enumerate(range(0, len(files), 2)):
        with tarfile.open(folder / pattern.format(number), "w") as archive:
            for file in files[first : first + 2]:
                add(archive, f"{file.stem}.jpg", file.read_bytes())
                add(archive, f"{file.stem}.json", json.dumps({"label": "not this", "width": 20}).encode())
                add(archive, f"{file.stem}.cls", number_of(file).encode())


def class_number(file: Path) -> str:
    return str(wnids().index(file.parent.name))


def shards(source: Path, target: Path) -> Path:
    """timm/imagenet-1k-wds: .jpg, .json and .cls, all shards in one folder."""
    write_shards(target, list(source.glob("train/*/*")), "imagenet1k-train-{:04}.tar", number_of=class_number)
    write_shards(target, list(source.glob("val/*/*")), "imagenet1k-validation-{:02}.tar", number_of=class_number)
    return target


def shards_by_pattern(source: Path, target: Path) -> Path:
    write_shards(target / "train", list(source.glob("train/*/*")), "{:06}.tar", number_of=class_number)
    write_shards(target / "val", list(source.glob("val/*/*")), "{:06}.tar", number_of=lambda file: file.parent.name)
    return target / "train" / "{000000..000004}.tar"


def parquet(source: Path, target: Path) -> Path:
    """imagenet-1k of the Hugging Face hub: the names have the class behind them."""
    (target / "data").mkdir(parents=True)
    for part, name in (("train", "train"), ("val", "validation")):
        files = sorted(source.glob(f"{part}/*/*"), key=lambda file: file.name[::-1])
        rows = [
            {
                "image": {"bytes": file.read_bytes(), "path": f"{file.stem}_{file.parent.name}.JPEG"},
                "label": int(class_number(file)),
            }
            for file in files
        ]
        for number, first in enumerate(range(0, len(rows), 4)):
            table = pyarrow.Table.from_pylist(rows[first : first + 4])
            pyarrow.parquet.write_table(table, target / f"data/{name}-{number:05}-of-00003.parquet", row_group_size=2)
    return target


def saved_by_datasets(source: Path, target: Path) -> Path:
    """As `datasets` keeps ILSVRC/imagenet-1k, here of three classes."""
    datasets = pytest.importorskip("datasets")
    names = [row.wnid for row in ROWS]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    splits = datasets.DatasetDict()
    for part, name in (("train", "train"), ("val", "validation")):
        files = sorted(source.glob(f"{part}/*/*"), key=lambda file: file.name[::-1])
        images = [{"bytes": file.read_bytes(), "path": f"{file.stem}_{file.parent.name}.JPEG"} for file in files]
        rows = {"image": images, "label": [names.index(file.parent.name) for file in files]}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    splits.save_to_disk(target)
    return target


def one_tar(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    with tarfile.open(target / "all.tar", "w") as archive:
        archive.add(source, "imagenet")
    return target / "all.tar"


def opened(root: Path, *words: str) -> ImageSet:
    return open_image_set(compose(["data=imagenet", f"data.root='{root}'", "data.num_classes=null", *words]))


FORMS = {
    "kaggle": (kaggle, "found Kaggle's layout in"),
    "flat with the devkit": (flat_with_devkit, "found train/ and val/"),
    "flat with its ground truth": (flat_with_truth, "found train/ and val/"),
    "flat with WordNet ids": (flat_with_wnids, "found train/ and val/"),
    "shards": (shards, "found 5 shards for training and 3 for validation"),
    "shards by a pattern": (shards_by_pattern, "found 5 shards for training and 3 for validation"),
    "parquet": (parquet, "found 3 parquet files for training and 2 for validation"),
    "one tar of folders": (one_tar, "found all.tar, a tar of train/ and val/, read in place"),
    "archives": (archived, "found the archives ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, read in place"),
}


@pytest.mark.parametrize("make, note", FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_set_and_says_which_it_is(sorted_set, tmp_path, make, note):
    images, own = opened(make(sorted_set, tmp_path / "form")), opened(sorted_set)
    assert images.notes[0].startswith(note)
    assert images.identity() == own.identity()
    plan = Plan(CenterCrop(16, 16), image_size=16, flip=0, seed=0)
    for part in ("train", "val"):
        split, expected = getattr(images, part), getattr(own, part)
        assert isinstance(split, FileSplit)
        assert split.labels.tolist() == expected.labels.tolist()
        for index in range(len(split)):
            assert split.read(index) == expected.read(index)
        batches = [np.empty((len(split), 16, 16, 3), np.uint8) for _ in range(2)]
        for one, out in zip((split, expected), batches, strict=True):
            assert one.make_reader(plan, 3, cache_gb=0).fill(plan, 0, np.arange(len(split)), out) == []
        assert np.array_equal(*batches)
    tars = [tmp_path / "form.tar", tmp_path / "own.tar"]
    for each, tar in zip((images, own), tars, strict=True):
        write_tar(choose(each, Numbers(3, 2, 1)), tar)
    assert tars[0].read_bytes() == tars[1].read_bytes()
    assert opened(tars[0]).classes == own.classes


@pytest.mark.e2e
def test_every_form_trains_the_same_run(sorted_set, tmp_path, train):
    """Not the same to a few decimals, but the same bits: in metrics.csv, the results and the weights."""
    words = ["model=lenet5", "image_size=32", "batch_size=4", "epochs=2", "seed=5", "logger=none", "data.num_threads=1"]
    shown = {}
    forms = {"sorted": lambda source, target: source} | {name: make for name, (make, _) in FORMS.items()}
    for name, make in (forms | {"saved by datasets": saved_by_datasets}).items():
        root = make(sorted_set, tmp_path / "forms" / name)
        data = ["data=hf"] if name == "saved by datasets" else ["data=imagenet", "data.num_classes=null"]
        config = compose([*words, *data, f"data.root='{root}'"])
        images = open_image_set(config)
        results = train(config, f"runs/{name}")
        weights = {key: value.numpy().tobytes() for key, value in results.pop("weights").items()}
        of_place = {"seconds", "data_root", *(["data"] if data == ["data=hf"] else [])}
        shown[name] = (
            images.classes,
            [(split.labels[i], split.read(i)) for split in (images.train, images.val) for i in range(len(split))],
            (tmp_path / "runs" / name / "metrics.csv").read_bytes(),
            {key: value for key, value in results.items() if key not in of_place},
            weights,
        )
    expected = shown["sorted"]
    assert len(expected[2].splitlines()) > 2
    for name, found in shown.items():
        classes, images, metrics, results, weights = found
        assert (name, classes, metrics) == (name, expected[0], expected[2])
        assert images == expected[1], name
        assert {key: expected[3][key] for key in results} == results, name
        assert weights == expected[4], name


def test_archives_are_packed_as_their_images_are_from_folders(sorted_set, tmp_path):
    packs = []
    for number, images in enumerate((opened(archived(sorted_set, tmp_path / "form")), opened(sorted_set))):
        make_pack(images, tmp_path / f"{number}.pack", lossless=native.available())
        packs.append((tmp_path / f"{number}.pack").read_bytes())
    assert packs[0] == packs[1]


def test_without_meta_the_numbers_are_the_development_kits_known_ones(sorted_set, tmp_path):
    assert opened(archived(sorted_set, tmp_path / "a", meta=False)).identity() == opened(sorted_set).identity()


def test_a_kept_index_serves_the_next_run_and_a_changed_archive_is_indexed_again(sorted_set, tmp_path, monkeypatch):
    root = archived(sorted_set, tmp_path / "tars")
    first = opened(root).identity()
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_members", None)
        assert opened(root).identity() == first
    (sorted_set / "train" / ROWS[0].wnid / "more.JPEG").write_bytes(jpeg(7))
    shutil.rmtree(root)
    archived(sorted_set, root)
    assert len(opened(root).train) == 10


def test_an_index_that_was_broken_off_goes_on_where_it_stopped(sorted_set, tmp_path, monkeypatch):
    root = archived(sorted_set, tmp_path / "tars")
    file, inner, seen = root / "ILSVRC2012_img_train.tar", archives._inner, []

    def break_off(path: Path, stream: io.BufferedReader, member: tarfile.TarInfo) -> archives._Files:
        if len(seen) == 2:
            seen.append("killed")
            raise KeyboardInterrupt
        seen.append(member.name)
        return inner(path, stream, member)

    monkeypatch.setattr(archives, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(archives, "_inner", break_off)
    with pytest.raises(KeyboardInterrupt):
        index_archive(file)
    index = index_archive(file)
    assert seen == [f"{ROWS[2].wnid}.tar", f"{ROWS[1].wnid}.tar", "killed", f"{ROWS[0].wnid}.tar"]
    assert len({index.name(place) for place in range(len(index.starts))}) == len(index.starts) == 9


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_tar_cut_short_says_how_far_it_is_whole(sorted_set, tmp_path, name, share):
    file = archived(sorted_set, tmp_path / "tars") / name
    data = file.read_bytes()
    end = data.rstrip(b"\0")
    file.write_bytes(data[: int(len(end) * share)])
    with pytest.raises(ValueError, match=rf"{name} is (cut short: .* are whole, up to|damaged after)"):
        opened(file.parent)


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
WNIDS = "imagenet_2012_validation_synset_labels.txt"


def other_devkit(root: Path) -> None:
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t3/data/meta.mat", b"of another task")


def relabel(root: Path, label: str) -> None:
    """Give the training images of the last class another label."""
    write_shards(
        root,
        list((root.parent / "sorted").glob("train/*/*")),
        "imagenet1k-train-{:04}.tar",
        number_of=lambda file: label if file.parent.name == ROWS[2].wnid else class_number(file),
    )


REFUSED = [
    (archived, remove("ILSVRC2012_img_val.tar"), r"has no ILSVRC2012_img_val\.tar beside the other"),
    (archived, remove("ILSVRC2012_devkit_t12.tar.gz"), r"no file of their labels; put ILSVRC2012_devkit_t12\."),
    (kaggle, remove("LOC_val_solution.csv"), r"no file of their labels; .*Kaggle's LOC_val_solution\.csv"),
    (archived, write("ILSVRC2012_img_val.tar", b"no tar" * 400), r"_val\.tar is (no tar|damaged)"),
    (archived, write("ILSVRC2012_devkit_t12.tar.gz", b"x" * 99), r"t12\.tar\.gz is damaged"),
    (flat_with_truth, write(TRUTH, b"1001\n" * 5), r"labels outside 1\.\.1000"),
    (flat_with_wnids, write(WNIDS, f"{ROWS[0].wnid}\n".encode()), r"has no label for ILSVRC2012_val_0000000\d"),
    (flat_with_wnids, lambda root: shutil.rmtree(root / "train" / ROWS[0].wnid), r"which the training images lack"),
    (
        archived,
        lambda root: other_devkit(root),
        r"holds no ILSVRC2012_validation_ground_truth\.txt: it is another development kit",
    ),
    (archived, lambda root: write_devkit(root, of=[1]), r"has no label for ILSVRC2012_val_0000000\d\.JPEG"),
    (shards, lambda root: relabel(root, "1000"), r"label 1000 is outside 0\.\.999; labels count ImageNet's classes"),
    (shards, lambda root: relabel(root, "6"), r"has label 6, which is n\d+ among ImageNet's 1,000 classes"),
    (shards, lambda root: relabel(root, "cat"), r"label 'cat' is neither a WordNet id nor the number of a class"),
    (flat_with_wnids, write("val/other.JPEG", b""), r"1 images that are not called ILSVRC2012_val"),
]


@pytest.mark.parametrize("make, spoil, message", REFUSED)
def test_what_does_not_fit_is_one_clear_error(sorted_set, tmp_path, make, spoil, message):
    root = make(sorted_set, tmp_path / "form")
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        opened(root)


def test_an_archive_that_shrinks_while_it_is_used_is_named(sorted_set, tmp_path):
    root = archived(sorted_set, tmp_path / "tars")
    images = opened(root)
    (root / "ILSVRC2012_img_val.tar").write_bytes(b"")
    assert isinstance(images.val, FileSplit)
    with pytest.raises(BadImageError, match=r"_val\.tar:n\d+/ILSVRC2012_val_\d+\.JPEG: the archive ends before it"):
        images.val.read(0)


@pytest.mark.slow
def test_imagenets_index_takes_under_120_megabytes(tmp_path):
    num = 1_281_167
    labels = np.arange(num) * 1000 // num
    blob, offsets = pack_names([f"n{10_000_000 + label}/n{10_000_000 + label}_{i % 99_999}.JPEG".encode()
                                for i, label in enumerate(labels.tolist())])  # fmt: skip
    starts = np.arange(num, dtype=np.int64) * 110_000
    made = Index(blob, offsets, starts, np.full(num, 109_000, np.uint32), {})
    archives._save(tmp_path / "index.npz", made, 0, whole=True)
    index, _, whole = archives._load(tmp_path / "index.npz")
    assert whole
    assert index is not None
    classes, found = index.wnids()
    assert (len(classes), np.array_equal(found, labels)) == (1000, True)
    assert sum(part.nbytes for part in index[:4]) + found.nbytes < 120e6


def test_a_test_on_flat_validation_images_needs_no_training_images(sorted_set, tmp_path):
    root = flat_with_devkit(sorted_set, tmp_path / "form")
    shutil.rmtree(root / "train")
    images = opened(root, "+data.source.train=val")  # as evaluate.py opens what has no train/
    assert images.classes == [row.wnid for row in ROWS]
    assert images.val.labels.tolist() == [0, 0, 1, 2, 2]
    tars = archived(sorted_set, tmp_path / "tars")
    (tars / "ILSVRC2012_img_train.tar").unlink()
    archive = opened(tars, "+data.source.train=val")
    assert (archive.classes, archive.val.labels.tolist()) == (images.classes, images.val.labels.tolist())
