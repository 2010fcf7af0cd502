"""Files and folders that this user may not read: one line that names them and the way out, whatever the form."""

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from imgcls.config import compose
from imgcls.data.sets import open_image_set

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users that may read less"),
]
NOBODY = 65534


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="imgcls-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's rights for a while: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def image() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_folders(base: Path) -> Path:
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (base / "set" / place).mkdir(parents=True)
        (base / "set" / place / "1.png").write_bytes(image())
    return base / "set"


def folder(base: Path) -> tuple[list[str], Path]:
    root = write_folders(base)
    return ["data=folder", f"data.root={root}"], root / "train/b"


def table(base: Path) -> tuple[list[str], Path]:
    rows = [f"{file},{file.parent.name},{file.parent.parent.name}" for file in write_folders(base).rglob("*.png")]
    (base / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    return ["data=csv", f"data.root={base}/labels.csv"], base / "labels.csv"


def one_tar(base: Path) -> tuple[list[str], Path]:
    with tarfile.open(base / "all.tar", "w") as archive:
        archive.add(write_folders(base), "set")
    return ["data=webdataset", f"data.root={base}/all.tar"], base / "all.tar"


def archives(base: Path) -> tuple[list[str], Path]:
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        (base / name).write_bytes(bytes(10240))
    return ["data=imagenet", f"data.root={base}"], base / "ILSVRC2012_img_val.tar"


def parquet(base: Path) -> tuple[list[str], Path]:
    rows = pyarrow.table({"image": [image(), image()], "label": [0, 1]})
    for part in ("train", "val"):
        pyarrow.parquet.write_table(rows, base / f"{part}.parquet")
    return ["data=parquet", f"data.root={base}"], base / "train.parquet"


@pytest.mark.parametrize("form", [folder, table, one_tar, archives, parquet], ids=lambda form: form.__name__)
def test_what_may_not_be_read_is_named_with_the_way_out(form, base, cache):
    words, path = form(base)
    config = compose(words)
    cache.chmod(0o777)
    path.chmod(0)
    with as_nobody(), pytest.raises(ValueError, match="cannot be read: Permission denied; let this user") as raised:
        open_image_set(config)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_link_to_nothing_is_named(base):
    words, path = parquet(base)
    path.unlink()
    path.symlink_to(base / "gone")
    with pytest.raises(ValueError, match=r"train\.parquet is a link to nothing; restore what it links to"):
        open_image_set(compose(words))
