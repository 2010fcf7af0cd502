"""What the pages name, made small, so that their commands run on a CPU: photos, ImageNet in its forms, runs, weights.

A page that names another set or file gets it here, in `write_home`, or a reason not to run in `pages.Command.not_here`.
"""

import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image

from imgcls.data.sets import wnids

from .pages import Command

WNIDS = wnids()[:4]
ANIMALS = ("cat", "dog", "owl", "fox")
NUM_TRAIN, NUM_VAL = 32, 16


def write_home(home: Path) -> None:
    """Write the files and sets that the pages name, `/data` and `/my` as folders of `home`."""
    draws = np.random.default_rng(0)

    def photo(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(path, quality=80)

    for name in ("photo.jpg", "photos/1.jpg", "photos/2.jpg"):
        photo(home / name)
    for folder, names in (("my/photos", ANIMALS), ("data/imagenet", WNIDS)):
        for place in range(NUM_TRAIN):
            photo(home / folder / "train" / names[place % 4] / f"{place}.JPEG")
        for place in range(NUM_VAL):
            photo(home / folder / "val" / names[place % 4] / f"ILSVRC2012_val_{place + 1:08}.JPEG")
    shutil.copytree(home / "my/photos/train", home / "my/animals")
    _write_labels(home)
    shutil.copytree(home / "data/imagenet", home / "imagenet-sample")
    _write_archives(home / "data/imagenet", home / "data/downloads")
    _write_shards(home / "my/photos", home / "my/shards", "{}-{:04}.tar", ANIMALS)
    _write_shards(home / "data/imagenet", home / "data/shards", "imagenet1k-{}-{:04}.tar", WNIDS)
    for folder, classes in (("my", ANIMALS), ("data", WNIDS)):
        _write_parquet(home / folder / ("photos" if folder == "my" else "imagenet"), home / folder / "parquet", classes)
    _write_saved(home / "my/photos", home / "my/saved")
    with tarfile.open(home / "my/photos.tar", "w") as archive:
        archive.add(home / "my/photos", "photos")


def _write_labels(home: Path) -> None:
    """Kaggle's labels of the validation images, a CSV file of the photos, and the one job of a sweep."""
    rows = [f"ILSVRC2012_val_{place + 1:08},{WNIDS[place % 4]} 1 1 2 2" for place in range(NUM_VAL)]
    (home / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    (home / "jobs.csv").write_text("model,optimizer.lr,recipe\nresnet18,0.05,\n")
    files = sorted((home / "my/photos").glob("*/*/*"))
    lines = [f"{file.relative_to(home / 'my')},{file.parent.name},{file.parent.parent.name}" for file in files]
    (home / "my/labels.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")


def _write_archives(root: Path, target: Path) -> None:
    """The official archives of ImageNet, of which that of the training images holds one for each class."""
    target.mkdir()
    with tarfile.open(target / "ILSVRC2012_img_val.tar", "w") as archive:
        for file in sorted(root.glob("val/*/*"), key=lambda file: file.name):
            archive.add(file, file.name)
    with tarfile.open(target / "ILSVRC2012_img_train.tar", "w") as archive:
        for folder in sorted(root.glob("train/*")):
            with tarfile.open(target / f"{folder.name}.tar", "w") as inner:
                for file in sorted(folder.iterdir()):
                    inner.add(file, file.name)
            archive.add(target / f"{folder.name}.tar", f"{folder.name}.tar")
            (target / f"{folder.name}.tar").unlink()
    shutil.copy(root.parent.parent / "LOC_val_solution.csv", target)


def _write_shards(root: Path, target: Path, name: str, classes: Sequence[str]) -> None:
    """Two shards for training and one for validation."""
    target.mkdir()
    for part, number in (("train", 0), ("train", 1), ("val", 0)):
        with tarfile.open(target / name.format(part, number), "w") as archive:
            for file in sorted(root.glob(f"{part}/*/*"))[number :: 2 if part == "train" else 1]:
                label = str(classes.index(file.parent.name)).encode()
                member = tarfile.TarInfo(f"{file.parent.name}_{file.stem}.cls")
                member.size = len(label)
                archive.add(file, f"{file.parent.name}_{file.stem}.jpg")
                archive.addfile(member, io.BytesIO(label))


def _write_parquet(root: Path, target: Path, classes: Sequence[str]) -> None:
    target.mkdir()
    for part in ("train", "val"):
        files = sorted(root.glob(f"{part}/*/*"))
        images = [{"bytes": file.read_bytes(), "path": f"{file.parent.name}-{file.name}"} for file in files]
        table = pyarrow.table({"image": images, "label": [classes.index(file.parent.name) for file in files]})
        pyarrow.parquet.write_table(table, target / f"{part}-00000-of-00001.parquet")


def _write_saved(root: Path, target: Path) -> None:
    """A set of `datasets`, as its save_to_disk writes it."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(ANIMALS))})
    splits = datasets.DatasetDict()
    for part, name in (("train", "train"), ("val", "validation")):
        files = sorted(root.glob(f"{part}/*/*"))
        rows = {"image": list(map(str, files)), "label": [ANIMALS.index(file.parent.name) for file in files]}
        splits[name] = datasets.Dataset.from_dict(rows, features=features)
    splits.save_to_disk(target)


def first_runs() -> list[Command]:
    """Return the commands of the runs that pages begin with: ResNet-18 on the photos, `runs/x`, and two others."""
    words = ("model=resnet18", "data=folder", "data.root=/my/photos")
    return [
        Command("", "", "train", (*words, f"seed={seed}", f"hydra.run.dir=runs/{name}"), ours=True)
        for seed, name in enumerate("xab")
    ]


def copy_weights(home: Path) -> None:
    """Copy the first runs and their weights to where the pages have them, also in the manner of another trainer."""
    for name in ("a", "b"):
        shutil.copy(home / "runs" / name / "best.pt", home / f"{name}.pt")
    for name in ("resnet18-imagenet/mine", "resnet18-folder/baseline"):
        shutil.copytree(home / "runs/x", home / "runs" / name)
    weights = torch.load(home / "a.pt", weights_only=True)["model"]
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, home / "model_best.pth.tar")
