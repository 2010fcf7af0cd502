"""Image folders: what is listed, what is refused with which words, and that a kept list is never a stale one."""

import gzip
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from imgcls.data.decoding import BadImageError, native
from imgcls.data.sets import (
    ArraySplit,
    FolderSplit,
    ImageSet,
    Listing,
    in_memory,
    list_folder,
    listing,
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
    open_folder,
    open_imagenet,
    open_tiny_imagenet,
    pack_names,
)
from imgcls.data.sets.in_memory import _images
from imgcls.data.sets.listing import _load, _save, _scan, _stamps, prefix_names

pytestmark = pytest.mark.usefixtures("cache")


def lay_out(root: Path, names: list[str], *, seconds_ago: float = 60) -> Path:
    """Files of a few bytes, in folders last changed some time ago."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    settle(root, seconds_ago=seconds_ago)
    return root


def settle(root: Path, *, seconds_ago: float = 60) -> None:
    then = time.time() - seconds_ago
    for path, _, _ in os.walk(root):
        os.utime(path, (then, then))


GOOD = ["train/cat/1.JPEG", "train/cat/2.jpg", "train/dog/1.png", "val/cat/1.JPEG", "val/dog/9.jpeg"]


def test_classes_are_the_sorted_folders_and_files_come_in_order(tmp_path):
    images = open_folder(str(lay_out(tmp_path, GOOD)))
    assert images.classes == ["cat", "dog"]
    assert [Path(images.train.path(i)).relative_to(tmp_path).as_posix() for i in range(3)] == GOOD[:3]
    assert images.train.labels.tolist() == [0, 0, 1]
    assert images.val.labels.tolist() == [0, 1]
    assert images.train.read(0) == b"x"


def test_every_known_extension_counts_in_any_case_and_nothing_else(tmp_path):
    kinds = [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".JPEG", ".JPG", ".PnG"]
    names = [f"train/a/{i}{kind}" for i, kind in enumerate(kinds)]
    others = ["train/a/notes.txt", "train/a/._1.JPEG", "train/a/.hidden.jpg", "train/a/jpg", "train/.git/x.jpg"]
    images = open_folder(str(lay_out(tmp_path, [*GOOD, *names, *others, "val/a/1.jpg"])))
    assert int((images.train.labels == 0).sum()) == len(kinds)


def test_images_in_folders_within_a_class_belong_to_it(tmp_path):
    images = open_folder(str(lay_out(tmp_path, [*GOOD, "train/cat/more/deep/3.jpg"])))
    assert images.train.path(2).endswith("cat/more/deep/3.jpg")
    assert images.train.labels.tolist() == [0, 0, 0, 1]


def test_odd_names_are_kept_as_they_are(tmp_path):
    odd = "train/cat/ü Ω\udcff.jpg"  # not valid UTF-8 on disk
    images = open_folder(str(lay_out(tmp_path, [*GOOD, odd])))
    assert str(tmp_path / odd) in [images.train.path(i) for i in range(len(images.train))]


def test_a_root_relative_to_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(lay_out(tmp_path, GOOD)))
    assert len(open_folder("~").train) == 3


REFUSED = [
    (["val/cat/1.jpg"], FileNotFoundError, "has no train/.*it holds val.*train/<class>"),
    (["train/cat/1.jpg"], FileNotFoundError, r"has no val/.*data\.val_share=0\.1 .*data.source.val"),
    (["train/cat/1.jpg", "train/dog/1.jpg", "val/1.JPEG", "val/2.JPEG"], ValueError, "2 images in no class.*sort_val"),
    ([*GOOD, "train/stray.jpg"], ValueError, "1 images beside its class folders"),
    ([*GOOD, "train/cow/notes.txt", "val/cow/1.jpg"], ValueError, r"train/cow holds no image .*, only \.txt: 1 file;"),
    ([*GOOD, "train/cow/1.xyz", "train/cow/2.nef"], ValueError, r"only \.nef: 1 file, a camera.*; \.xyz: 1 file;"),
    ([*GOOD, "val/zebra/1.jpg"], ValueError, r"only .*val has 1 class \('zebra'\); .*move the folder away"),
    (
        [*GOOD, "train/zebra/1.jpg", "val/zebras/1.jpg"],
        ValueError,
        r"only .*/val has 1 class \('zebras'\) \(did you mean zebra\?\)",
    ),
    (["train/cat/1.jpg", "val/cat/1.jpg"], ValueError, "single class, 'cat'"),
    (["train/cat/a.txt", "train/dog/b.txt", "val/cat/1.jpg"], FileNotFoundError, "2 folders but no images"),
    (["train/note.txt", "val/cat/1.jpg"], FileNotFoundError, "train is empty"),
]


@pytest.mark.parametrize("names, error, message", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_layout_that_would_mislead_is_refused_with_the_way_out(tmp_path, names, error, message):
    with pytest.raises(error, match=message):
        open_folder(str(lay_out(tmp_path, names)))


def test_no_root_names_the_key():
    with pytest.raises(ValueError, match=r"data.root is not set.*data.root="):
        open_folder(None)


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.root=.*nowhere is not a folder"):
        open_folder(str(tmp_path / "nowhere"))


def test_imagenet_wants_wordnet_ids(tmp_path):
    with pytest.raises(ValueError, match=r"'cat' is not a WordNet id.*data=folder"):
        open_imagenet(str(lay_out(tmp_path, GOOD)))
    wnids = [name.replace("cat", "n01440764").replace("dog", "n01443537") for name in GOOD]
    assert len(open_imagenet(str(lay_out(tmp_path / "in", wnids))).classes) == 2


def test_another_number_of_classes_than_the_config_says_is_refused(tmp_path):
    images = open_folder(str(lay_out(tmp_path, GOOD)))
    assert images.check_num_classes(None) == images.check_num_classes(2) == 2
    with pytest.raises(ValueError, match=r"data.num_classes=1000 but the data has 2 classes.*=null"):
        images.check_num_classes(1000)


def test_tiny_imagenet_is_read_as_it_is_distributed(tmp_path):
    names = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ("n01", "n02") for i in range(3)]
    lay_out(tmp_path, [*names, "train/n01/n01_boxes.txt", *(f"val/images/val_{i}.JPEG" for i in (0, 1, 2))])
    rows = "val_1.JPEG\tn01\t0\t0\t1\t1\nval_0.JPEG\tn02\t0\t0\t1\t1\nval_2.JPEG\tn02\t0\t0\t1\t1\n"
    (tmp_path / "val/val_annotations.txt").write_text(rows)
    images = open_tiny_imagenet(str(tmp_path))
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.val.labels.tolist() == [1, 0, 1]
    assert images.val.path(1).endswith("val/images/val_1.JPEG")
    (tmp_path / "val/val_annotations.txt").write_text(rows.replace("n02", "n09"))
    with pytest.raises(ValueError, match="is of class 'n09', which train/ lacks"):
        open_tiny_imagenet(str(tmp_path))
    (tmp_path / "val/val_annotations.txt").write_text(rows.splitlines()[0])
    with pytest.raises(ValueError, match="names 1 images but val/images holds 3"):
        open_tiny_imagenet(str(tmp_path))
    (tmp_path / "val/val_annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no val/val_annotations.txt.*tiny-imagenet-200"):
        open_tiny_imagenet(str(tmp_path))


def listed(path: Path) -> list[str]:
    listing = list_folder(path)
    split = FolderSplit.of_listing(path, listing)
    return [Path(split.path(i)).relative_to(path).as_posix() for i in range(len(split))]


def test_a_kept_list_serves_the_next_run_without_listing(tmp_path, monkeypatch):
    lay_out(tmp_path, ["a/1.jpg", "a/2.jpg", "b/1.jpg"])
    first = listed(tmp_path)
    monkeypatch.setattr(listing, "_scan", None)
    assert listed(tmp_path) == first == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a/3.jpg").write_bytes(b"x"),
        lambda root: (root / "a/2.jpg").unlink(),
        lambda root: (root / "a/2.jpg").rename(root / "a/0.jpg"),
        lambda root: (root / "b/deep/7.jpg").write_bytes(b"x"),
        lambda root: (root / "c").mkdir(),
        lambda root: (root / "b").rename(root / "z"),
    ],
    ids=["added", "removed", "renamed", "added below a class", "new class", "renamed class"],
)
def test_a_kept_list_is_never_a_stale_one(tmp_path, change):
    root = lay_out(tmp_path, ["a/1.jpg", "a/2.jpg", "b/deep/1.jpg"])
    listed(root)
    change(root)
    scanned, _ = _scan(os.fsencode(root))
    assert list_folder(root).classes == scanned.classes
    assert np.array_equal(list_folder(root).names, scanned.names)


def test_a_folder_that_changed_a_moment_ago_is_not_kept(tmp_path, cache):
    # A file added within the clock's grain of the listing would not show in the folder's time.
    lay_out(tmp_path, ["a/1.jpg"], seconds_ago=0)
    listed(tmp_path)
    assert not list(cache.rglob("*.npz"))


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"junk" * 50])
def test_a_spoilt_kept_list_is_made_again(tmp_path, cache, spoil):
    lay_out(tmp_path, ["a/1.jpg", "b/1.jpg"])
    listed(tmp_path)
    (kept,) = cache.rglob("*.npz")
    kept.write_bytes(spoil(kept.read_bytes()))
    assert listed(tmp_path) == ["a/1.jpg", "b/1.jpg"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("IMGCLS_CACHE", str(blocked))
    lay_out(tmp_path / "set", ["a/1.jpg"])
    assert listed(tmp_path / "set") == ["a/1.jpg"]


def test_a_user_without_a_home_folder_lists_all_the_same_and_learns_where_sets_may_be_kept(tmp_path, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("IMGCLS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    lay_out(tmp_path, ["a/1.jpg"])
    assert listed(tmp_path) == ["a/1.jpg"]
    with pytest.raises(FileNotFoundError, match="no home folder; set IMGCLS_CACHE"):
        load_mnist()


@pytest.mark.parametrize("load", [load_mnist, load_fashion_mnist, load_cifar10, load_cifar100])
def test_a_set_that_must_not_be_downloaded_is_not(load, tmp_path):
    name = load.__name__.removeprefix("load_")
    with pytest.raises(FileNotFoundError, match=rf"data={name} is not in .*data.root=DIR, or add data={name}, which"):
        load(str(tmp_path), download=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inner", ["MNIST/raw", "."])
def test_archives_that_are_there_are_unpacked_into_the_cache_not_downloaded(tmp_path, cache, caplog, inner):
    """Data sets are often on a disk that is shared, and read-only."""
    folder = tmp_path / inner
    folder.mkdir(parents=True, exist_ok=True)
    for part, number in (("train", 6), ("t10k", 4)):
        images = struct.pack(">4i", 0x803, number, 28, 28) + bytes(range(number)) * 784
        labels = struct.pack(">2i", 0x801, number) + bytes(range(number))
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    before = sorted(tmp_path.rglob("*"))
    with caplog.at_level("INFO"):
        images = load_mnist(str(tmp_path), download=False)
        again = load_mnist(str(tmp_path))
    assert [line.partition(" of ")[0] for line in caplog.messages] == ["unpacking the archives"]
    assert (len(images.train), images.val.labels.tolist()) == (6, [0, 1, 2, 3])
    assert images.identity() == again.identity()
    assert sorted(tmp_path.rglob("*")) == before
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(9999))[:20])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        load_mnist(str(tmp_path))
    assert [path.name[0] for path in (cache / "unpacked").iterdir()] == ["m"]


def test_a_list_kept_by_a_relative_path_is_of_that_folder_wherever_it_is_asked_for(tmp_path, monkeypatch):
    # Two copies with the same times, as cp -a makes them: only one of them changes.
    for copy in ("one", "two"):
        lay_out(tmp_path / copy, ["data/a/1.jpg", "data/b/1.jpg"])
        for path, _, _ in os.walk(tmp_path / copy):
            os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(tmp_path / "one")
    list_folder(Path("data"))
    (tmp_path / "one/data/a/2.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "two")
    assert listed(tmp_path / "one/data") == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    "links",
    [{"a/up": ".."}, {"a/deep/up": "../../a"}, {"up": "."}, {"a/over": "../b", "b/over": "../a"}],
    ids=["to the root", "to the class", "as a class", "over another class"],
)
def test_a_link_back_to_a_folder_that_holds_it_is_named(tmp_path, links):
    lay_out(tmp_path, ["a/1.jpg", "a/deep/1.jpg", "b/1.jpg"])
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    with pytest.raises(ValueError, match=r"/(up|over) is a link back to a folder that holds it; remove the link"):
        list_folder(tmp_path)


@pytest.mark.parametrize("name", ["me", "a/me"])
def test_a_link_to_itself_is_named(tmp_path, name):
    lay_out(tmp_path, ["a/1.jpg"])
    (tmp_path / name).symlink_to("me")
    with pytest.raises(ValueError, match=r"/me cannot be followed: Too many levels of symbolic links; remove it"):
        list_folder(tmp_path)


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    lay_out(tmp_path, ["set/a/1.jpg", "set/b/1.jpg", "else/3.jpg"])
    (tmp_path / "set/a/more").symlink_to("../../else")
    (tmp_path / "set/b/more").symlink_to("../../else")
    assert listed(tmp_path / "set") == ["a/1.jpg", "a/more/3.jpg", "b/1.jpg", "b/more/3.jpg"]


def imagenet_sized() -> tuple[Listing, int]:
    num = 1_281_167
    labels = (np.arange(num) * 1000 // num).astype(np.int32)
    names = [f"n{10_000_000 + label:08}/n{10_000_000 + label:08}_{i % 99_999}.JPEG".encode() for i, label in
             enumerate(labels.tolist())]  # fmt: skip
    blob, offsets = pack_names(names)
    classes = [f"n{10_000_000 + label:08}" for label in range(1000)]
    return Listing(blob, offsets, labels, classes, 0, []), num


@pytest.mark.slow
def test_imagenets_list_takes_under_120_megabytes(tmp_path):
    listing, num = imagenet_sized()
    (tmp_path / "train").mkdir()
    settle(tmp_path)
    kept = tmp_path / "list.npz"
    here = [os.fsencode(tmp_path / "train")]
    _save(kept, listing, here, _stamps(here))
    loaded = _load(kept)
    assert loaded is not None
    split = FolderSplit.of_listing(tmp_path / "train", loaded)
    assert len(split) == num
    assert split.names.nbytes + split.offsets.nbytes + split.labels.nbytes + loaded.labels.nbytes < 120e6
    assert split.path(num - 1).endswith(f"_{(num - 1) % 99_999}.JPEG")


def test_a_file_that_vanished_is_named(tmp_path):
    images = open_folder(str(lay_out(tmp_path, GOOD)))
    (tmp_path / GOOD[0]).unlink()
    with pytest.raises(BadImageError, match=r"train/cat/1.JPEG: is gone since"):
        images.train.read(0)


def test_a_read_that_fails_once_is_tried_again_and_always_is_named(tmp_path):
    failures = [OSError(5, "Input/output error")]

    class FailingSplit(FolderSplit):
        def read_file(self, path: bytes) -> bytes:
            if failures:
                raise failures.pop()
            return super().read_file(path)

    listed = open_folder(str(lay_out(tmp_path, GOOD))).train
    split = FailingSplit(tmp_path / "train", listed.names, listed.offsets, listed.labels)
    assert split.read(1) == b"x"
    failures += [OSError(5, "Input/output error")] * 2
    with pytest.raises(BadImageError, match=r"train/cat/2.jpg: cannot be read: Input/output error"):
        split.read(1)


def write_digits(root: Path, *, folder: str = "MNIST", num: int = 20) -> None:
    """Files in MNIST's own format, small."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = draws.integers(0, 256, (num, 28, 28), np.uint8)
        shape = b"".join(size.to_bytes(4, "big") for size in (num, 28, 28))
        for name, head, body in (
            (f"{part}-images-idx3-ubyte", b"\0\0\x08\x03" + shape, pixels.tobytes()),
            (f"{part}-labels-idx1-ubyte", b"\0\0\x08\x01" + num.to_bytes(4, "big"), bytes(i % 10 for i in range(num))),
        ):
            (raw / name).write_bytes(head + body)
            (raw / f"{name}.gz").write_bytes(gzip.compress(head + body))


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_digits_on_disk_become_one_array_without_a_network(tmp_path, name, folder):
    write_digits(tmp_path, folder=folder)
    images: ImageSet = getattr(in_memory, f"load_{name}")(str(tmp_path))
    assert isinstance(images.train, ArraySplit)
    assert images.train.images.shape == (20, 28, 28, 1)
    assert images.train.images.dtype == np.uint8
    assert len(images.classes) == 10
    colour = getattr(in_memory, f"load_{name}")(str(tmp_path), channels=3)
    assert colour.train.images.shape == (20, 28, 28, 3)


def test_a_set_that_cannot_be_downloaded_says_where_to_put_it(tmp_path, monkeypatch):
    import torchvision

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_network)
    with pytest.raises(FileNotFoundError, match=r"data=mnist is not in .*no route to host.*data.root"):
        load_mnist(str(tmp_path))


def test_colour_images_are_not_silently_made_grey():
    with pytest.raises(ValueError, match=r"data.channels=1 but the images have 3"):
        _images(np.zeros((2, 4, 4, 3), np.uint8), 1)


def test_the_real_mnist_is_read(real_data):
    images = load_mnist(str(real_data / "mnist"))
    assert (len(images.train), len(images.val)) == (60_000, 10_000)
    assert np.bincount(images.train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip


def test_the_real_photos_are_listed(real_data):
    images = open_folder(str(real_data / "caltech10"))
    assert (len(images.train), len(images.val), len(images.classes)) == (800, 200, 10)


@pytest.fixture
def real_data() -> Path:
    if not (named := os.environ.get("IMGCLS_REAL_DATA")):
        pytest.skip("IMGCLS_REAL_DATA names no folder of real images")
    return Path(named)


def test_a_file_of_more_than_a_gibibyte_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)
    split = FolderSplit.of_files([tmp_path / "a.jpg"])
    with pytest.raises(BadImageError, match=r"a\.jpg: has 1099511627776 bytes, over the limit of 1073741824"):
        split.read(0)
    if native.available():
        assert split.open_in(native.Workspace(), np.zeros(1, np.int64)).status[0] == native.Status.UNREADABLE


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_names_get_the_prefix_of_their_class_unless_they_have_it(monkeypatch, at_once):
    monkeypatch.setattr(listing, "NAMES_AT_ONCE", at_once)
    names = [b"ab/1", b"1", b"", b"cd/2", b"ab/2", b"ab"]
    prefixes = np.frombuffer(b"ab/cd/", np.uint8).reshape(2, 3)
    found = prefix_names(*pack_names(names), prefixes, np.array([0, 0, 1, 1, 1, 0]))
    expected = pack_names([b"ab/1", b"ab/1", b"cd/", b"cd/2", b"cd/ab/2", b"ab/ab"])
    assert [part.tolist() for part in found] == [part.tolist() for part in expected]
