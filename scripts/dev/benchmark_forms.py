"""`benchmark.py forms`: the same images from folders, archives, shards, parquet files and others, side by side.

Every form is written from one folder, and every form gives the same images in the same order: each turn reads the same
ones from each. The files are in the page cache, as they are from the second epoch on where the set fits it; from a
slow disk or a network the forms of few large files gain more.
"""

import argparse
import dataclasses
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from benchmark_report import machine, print_table, take_turns

from imgcls.data.augment import RandomResizedCrop
from imgcls.data.decoding import Plan, native
from imgcls.data.sets import (
    TRAIN_TAR,
    FileSplit,
    FolderSplit,
    make_pack,
    open_folder,
    open_hf,
    open_pack,
    open_parquet,
    open_webdataset,
    wnids,
)
from imgcls.data.sets.archives import index_archive, split_of

CHUNK = 64  # images of a turn
SHARD = 256  # images of a shard, and of a parquet file


def measure_forms(asked: argparse.Namespace) -> None:
    """Write the forms, then read and decode the same images from each in turn."""
    torch.set_num_threads(1)
    folders = open_folder(asked.data).train
    if not isinstance(folders, FolderSplit):
        raise ValueError("--data: name a folder of image files")
    with tempfile.TemporaryDirectory(prefix="imgcls-forms-") as scratch:
        os.environ["IMGCLS_CACHE"] = f"{scratch}/cache"
        splits: dict[str, FileSplit] = {"folders": folders}
        for name, make in FORMS.items():
            folder = Path(scratch) / name.replace(" ", "-")
            folder.mkdir()
            splits[name] = make(Path(asked.data), folders, folder)
        order = np.random.default_rng(0).permutation(len(folders))
        chunks = [order[first : first + CHUNK] for first in range(0, len(order), CHUNK)]
        for name, split in splits.items():
            same = all(split.read(index) == folders.read(index) for index in order[:100].tolist())
            assert same == (name != "lossless pack"), name
        print(f"{machine()}; {len(folders):,} images of {_mean_kb(folders):.0f} KB")
        _compare(splits, chunks, asked)


def _compare(splits: dict[str, FileSplit], chunks: Sequence[np.ndarray], asked: argparse.Namespace) -> None:
    plan = Plan(RandomResizedCrop(), image_size=asked.image_size, flip=0.5, seed=0)
    out = np.empty((CHUNK, asked.image_size, asked.image_size, 3), np.uint8)
    jobs: dict[str, dict[str, list[Callable[[], object]]]] = {
        "reading alone, bytes and headers": {},
        "and decoding": {},
    }
    for name, split in splits.items():
        space, reader = native.Workspace(), split.make_reader(plan, 3, cache_gb=0)
        reading, decoding = jobs.values()
        reading[name] = [lambda split=split, space=space, chunk=chunk: split.open_in(space, chunk) for chunk in chunks]
        decoding[name] = [
            lambda reader=reader, chunk=chunk: reader.fill(plan, 0, chunk, out[: len(chunk)]) for chunk in chunks
        ]
    for title, of_forms in jobs.items():
        seconds = take_turns(of_forms, rounds=asked.rounds)
        count = sum(map(len, chunks))
        print(f"\n{title}, one thread, CPU time, {asked.rounds} rounds; the ratio is to folders:")
        print_table({name: [each / count for each in of_form] for name, of_form in seconds.items()})


def _mean_kb(split: FolderSplit) -> float:
    return float(np.mean([os.stat(file).st_size for file in split.files()])) / 1e3


def _files(folders: FolderSplit) -> list[tuple[Path, int]]:
    return [(Path(folders.path(index)), int(folders.labels[index])) for index in range(len(folders))]


def _split(opened: object) -> FileSplit:
    assert isinstance(opened, FileSplit)
    return opened


def as_archives(data: Path, folders: FolderSplit, target: Path) -> FileSplit:
    """As ILSVRC2012_img_train.tar: a tar of a tar for each class."""
    del data
    files = _files(folders)
    with tarfile.open(target / TRAIN_TAR, "w") as outer:
        for label in sorted({label for _, label in files}):
            with tarfile.open(target / f"{wnids()[label]}.tar", "w") as archive:
                for file, _ in (each for each in files if each[1] == label):
                    archive.add(file, file.name)
            outer.add(target / f"{wnids()[label]}.tar", f"{wnids()[label]}.tar")
    index = index_archive(target / TRAIN_TAR)
    return split_of(target / TRAIN_TAR, index, index.wnids()[1])


def as_one_tar(data: Path, folders: FolderSplit, target: Path) -> FileSplit:
    """One tar of train/ and val/."""
    del folders
    with tarfile.open(target / "all.tar", "w") as archive:
        archive.add(data, "set")
    return _split(open_webdataset(str(target / "all.tar")).train)


def as_shards(data: Path, folders: FolderSplit, target: Path) -> FileSplit:
    """WebDataset's shards, the images shuffled."""
    files = _files(folders)
    order = np.random.default_rng(1).permutation(len(files)).tolist()
    for part, places in (("train", order), ("val", order[:10])):
        for first in range(0, len(places), SHARD):
            with tarfile.open(target / f"{part}-{first:06}.tar", "w") as archive:
                for place in places[first : first + SHARD]:
                    file, label = files[place]
                    member = tarfile.TarInfo(f"{place:07}.cls")
                    member.size = len(str(label))
                    archive.addfile(member, io.BytesIO(str(label).encode()))
                    archive.add(file, f"{place:07}.jpg")
    return _split(open_webdataset(str(target)).train)


def as_parquet(data: Path, folders: FolderSplit, target: Path) -> FileSplit:
    """Parquet files packed by Snappy in row groups of 100, as the Hugging Face hub has them."""
    import pyarrow
    import pyarrow.parquet

    files = _files(folders)
    for part, places in (("train", range(len(files))), ("validation", range(2))):
        for first in range(0, len(places), SHARD):
            some = [(place, *files[place]) for place in places[first : first + SHARD]]
            images = [{"bytes": file.read_bytes(), "path": f"{place:07}.jpg"} for place, file, _ in some]
            table = pyarrow.table({"image": images, "label": [label for _, _, label in some]})
            pyarrow.parquet.write_table(table, target / f"{part}-{first:06}.parquet", row_group_size=100)
    return _split(open_parquet(str(target)).train)


def as_saved(data: Path, folders: FolderSplit, target: Path) -> FileSplit:
    """As `datasets` keeps a set of the hub."""
    import datasets

    datasets.disable_progress_bars()
    files = _files(folders)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [{"bytes": file.read_bytes(), "path": f"{place:07}.jpg"} for place, (file, _) in enumerate(files)]
    rows = {"image": images, "label": [label for _, label in files]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole, "validation": whole.select(range(2))}).save_to_disk(target)
    return _split(open_hf(str(target), hub_name="hf").train)


def as_pack(data: Path, folders: FolderSplit, target: Path) -> FileSplit:
    """A lossless pack."""
    make_pack(dataclasses.replace(open_folder(str(data)), train=folders), target / "a.pack")
    return _split(open_pack(str(target / "a.pack")).train)


FORMS: dict[str, Callable[[Path, FolderSplit, Path], FileSplit]] = {
    "official archive": as_archives,
    "one tar of folders": as_one_tar,
    "shards": as_shards,
    "parquet": as_parquet,
    "saved by datasets": as_saved,
    "lossless pack": as_pack,
}
