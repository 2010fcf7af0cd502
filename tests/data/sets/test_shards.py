"""Shards: which files are which part, what is read of them, and what is refused with which words."""

import functools
import gzip
import http.server
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.config import compose
from imgcls.data.augment import CenterCrop
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import Loader
from imgcls.data.sets import ContainerSplit, ImageSet, containers, open_image_set, remote
from imgcls.data.sets.parts import Parts, expand, find_parts
from imgcls.errors import ConfigError

pytestmark = pytest.mark.usefixtures("cache")


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_tar(file: Path, members: Mapping[str, bytes | str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            content = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def write_shard(file: Path, labels: Mapping[str, str]) -> Path:
    """Write a sample for each key, with its label in a .cls."""
    members: dict[str, bytes | str] = {}
    for number, (key, label) in enumerate(labels.items()):
        members |= {f"{key}.png": png(number), f"{key}.cls": label}
    return write_tar(file, members)


def opened(root: Path | str, *words: str) -> ImageSet:
    return open_image_set(compose(["data=webdataset", f"data.root='{root}'", *words]))


def names(split: object) -> list[str]:
    assert isinstance(split, ContainerSplit)
    return [os.fsdecode(split.name(index)) for index in range(len(split))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training shards and one for validation: 6 and 2 images of two numbered classes."""
    folder = tmp_path / "set"
    write_shard(folder / "x-train-0000.tar", {"c": "1", "a": "0", "b.more": "1"})
    write_shard(folder / "x-train-0001.tar", {"f": "0", "e": "1", "d": "0"})
    write_shard(folder / "x-val-0000.tar", {"v": "1", "w": "0"})
    write_shard(folder / "x-test-0000.tar", {"t": "1"})
    return folder


def test_images_are_in_the_order_of_label_and_name(root):
    images = opened(root)
    assert images.notes[0] == "found 2 shards for training and 1 for validation; left out: 1 of a test part"
    assert (images.classes, images.train.labels.tolist()) == (["0", "1"], [0, 0, 0, 1, 1, 1])
    assert names(images.train) == ["a.png", "d.png", "f.png", "b.more.png", "c.png", "e.png"]
    assert [int(images.train.pixels(index, 3)[0, 0, 0]) for index in range(6)] == [1, 2, 0, 2, 0, 1]
    assert images.train.path(4) == f"{root}/x-train-0000.tar:c.png"


@pytest.mark.parametrize(
    "name, content, label",
    [
        ("a.cls", "1", 1),
        ("a.cls", " 1\n", 1),
        ("a.json", '{"label": 1}', 1),
        ("a.json", '{"width": 3, "cls": "1"}', 1),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_label_is_in_a_cls_or_a_json_before_or_after_the_image(tmp_path, name, content, label, first):
    members: dict[str, bytes | str] = {name: content, "a.JPEG": png(9)} if first else {"a.JPEG": png(9), name: content}
    write_tar(tmp_path / "train.tar", {**members, "b.png": png(1), "b.cls": "0", "b.txt": "a caption"})
    write_shard(tmp_path / "val.tar", {"v": "0"})
    images = opened(tmp_path)
    assert dict(zip(names(images.train), images.train.labels.tolist(), strict=True)) == {"a.JPEG": label, "b.png": 0}


def test_labels_may_be_names_and_numbers_may_have_them(root, tmp_path):
    write_shard(tmp_path / "named/train.tar", {"a": "dog", "b": "cat", "c": "10", "d": "9"})
    write_shard(tmp_path / "named/val.tar", {"a": "cat"})
    assert opened(tmp_path / "named").classes == ["10", "9", "cat", "dog"]
    assert opened(tmp_path / "named", "data.class_order=natural").classes == ["9", "10", "cat", "dog"]
    (root / "classes.txt").write_text("cat\ndog\nowl\n")
    images = opened(root)
    assert (images.classes, images.val.labels.tolist()) == (["cat", "dog", "owl"], [0, 1])
    assert "no training images of 1 class ('owl')" in images.warnings[0]


def test_braces_count_or_choose():
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{a,b}{0..1}") == ["a0", "a1", "b0", "b1"]
    assert expand("{train-{08..09},val}.tar") == ["train-08.tar", "train-09.tar", "val.tar"]
    assert expand("{a") == ["{a"]


@pytest.mark.parametrize(
    "names, root, found",
    [
        (["train/0.tar", "val/0.tar"], "", (["train/0.tar"], ["val/0.tar"], [])),
        (["train/0.tar", "val/0.tar"], "train/{0..0}.tar", (["train/0.tar"], ["val/0.tar"], [])),
        (["train-0.tar", "validation-0.tar"], "train-*.tar", (["train-0.tar"], ["validation-0.tar"], [])),
        (["data/train-0.tar", "data/dev-0.tar"], "", (["data/train-0.tar"], ["data/dev-0.tar"], [])),
        (["0.tar", "1.tar", "more.txt", ".2.tar"], "", (["0.tar", "1.tar"], [], [])),
        (["0.tar", "1.tar"], "0.tar", (["0.tar"], [], [])),
        (["constrain-0.tar", "y-test.tar"], "", (["constrain-0.tar"], [], ["y-test.tar"])),
    ],
)
def test_the_part_of_a_file_is_in_its_name_or_its_folders(tmp_path, names, root, found):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    place = str(tmp_path / root) if root else str(tmp_path)
    parts = find_parts(place, "train", "val", (".tar",))
    assert Parts(*([os.path.relpath(file, tmp_path) for file in files] for files in parts)) == Parts(*found)


def test_parts_may_be_named(root):
    images = opened(root, "data.source.train='x-train-{0000..0001}.tar'", "data.source.val=x-test-0000.tar")
    assert (len(images.train), names(images.val)) == (6, ["t.png"])


def test_images_are_held_out_of_shards_without_a_validation_part(root):
    images = opened(root / "x-train-{0000..0001}.tar", "data.source.val=none", "data.val_share=0.3")
    assert (len(images.train), len(images.val)) == (4, 2)
    for split in (images.train, images.val):
        assert [split.pixels(index, 3).shape for index in range(len(split))] == [(4, 4, 3)] * len(split)
    assert sorted(names(images.train) + names(images.val)) == sorted(names(opened(root).train))


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_has_each_image_once_over_all_ranks_and_goes_on_anywhere(root, world_size):
    split = opened(root).train

    def batches(rank: int, start: int = 0) -> list[np.ndarray]:
        sizes = {"image_size": 4, "batch_size": 2, "seed": 3, "shuffle": True, "num_threads": 2}
        loader = Loader(split, CenterCrop(4, 4), **sizes, rank=rank, world_size=world_size)
        try:
            return [batch.images.numpy().copy() for batch in loader.epoch(1, start=start)]
        finally:
            loader.close()

    whole = [batches(rank) for rank in range(world_size)]
    values = [int(image[0, 0, 0]) for rank in whole for batch in rank for image in batch]
    assert sorted(values) == [0, 0, 1, 1, 2, 2]
    for rank, expected in enumerate(whole):
        assert all(np.array_equal(*pair) for pair in zip(batches(rank, start=1), expected[1:], strict=True))


def test_a_kept_index_serves_the_next_run_until_a_shard_changes(root, monkeypatch):
    first = opened(root).identity()
    with monkeypatch.context() as patch:
        patch.setattr("imgcls.data.sets.shards.tar_members", None)
        assert opened(root).identity() == first
    write_shard(root / "x-train-0001.tar", {"f": "0"})
    assert len(opened(root).train) == 4


def test_an_index_that_was_broken_off_goes_on_with_the_next_shard(root, monkeypatch):
    whole = opened(root).identity()
    write_shard(root / "x-train-0001.tar", {"f": "0", "e": "1", "d": "0", "g": "1"})
    read, seen = containers._index_of, []

    def stop_at_second(contents: containers.Contents, number: int) -> containers.Index:
        seen.append(number)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return read(contents, number)

    monkeypatch.setattr(containers, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(containers, "_index_of", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        opened(root)
    images = opened(root)
    assert seen[:3] == [0, 1, 1]
    assert len(images.train) == 7
    assert images.identity() != whole


def remove_label(root: Path) -> None:
    write_tar(root / "x-train-0000.tar", {"a.png": png(1), "b.png": png(2), "b.cls": "1"})


def write_link(file: Path, name: str) -> None:
    with tarfile.open(file, "w") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, "../elsewhere"
        archive.addfile(link)


def cut(root: Path) -> None:
    file = root / "x-train-0001.tar"
    file.write_bytes(file.read_bytes()[:2200])


REFUSED = [
    (remove_label, "", r"x-train-0000\.tar: a\.png has no label: the shard holds neither a\.cls nor a \.json"),
    (cut, "", r"x-train-0001\.tar is cut short: of its 2,200 bytes the first 2,048 are whole, up to f\.cls"),
    (lambda root: None, "x-train-{0000..0005}.tar", r"x-train-0002\.tar is not there \(4 of 6 are not\)"),
    (lambda root: None, "x-train-{0005..0002}.tar", r"\{0005\.\.0002\} counts backwards"),
    (lambda root: None, "none/*.tar", r"there are no shards"),
    (lambda root: write_shard(root / "x-val-0000.tar", {"v": "-1"}), "", r"only validation images are of class '-1'"),
    (lambda root: write_shard(root / "x-train-0000.tar", {"v": "-1"}), "", r"label -1 is no class"),
    (lambda root: write_shard(root / "x-train-0000.tar", {"v": "90000"}), "", r"labels go up to 90000; labels must"),
    (lambda root: (root / "classes.txt").write_text("one\n"), "", r"label 1 is outside 0\.\.0, the 1 classes"),
    (lambda root: (root / "x-val-0000.tar").unlink(), "", r"no validation images; .* data\.val_share=0\.1"),
    (lambda root: write_tar(root / "x-val-0000.tar", {"a.png": png(1), "a.cls": b"\xff\xfe"}), "", r"a\.cls cannot be"),
    (lambda root: write_tar(root / "x-val-0000.tar", {"a.png": b"", "a.jpg": b"", "a.cls": "1"}), "", r"two images of"),
    (lambda root: (root / "x-val-0000.tar").write_bytes(b"no tar" * 200), "", r"x-val-0000\.tar is damaged|no tar"),
    (
        lambda root: write_tar(root / "x-val-0000.tar", {"a.npy": b""}),
        "",
        r"the validation shards hold no images, only \.npy",
    ),
    (lambda root: (root / "x-val-0000.tar").write_bytes(gzip.compress(bytes(999))), "", r"is compressed \(gzip\), so"),
    (
        lambda root: (root / "x.tar.gz").touch(),
        "x.tar.gz",
        r"does not end with \.tar; give a tar that is not compressed",
    ),
    (lambda root: write_link(root / "x-val-0000.tar", "b.png"), "", r"b\.png is a link, which .* tar --dereference"),
    (lambda root: write_link(root / "x-val-0000.tar", "set/train/cat"), "", r"cat is a link, which cannot be followed"),
    (lambda root: write_tar(root / "x-val-0000.tar", {"a.json": json.dumps([1]), "a.png": b""}), "", r"has no label"),
]


@pytest.mark.parametrize("spoil, pattern, message", REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_one_clear_line(root, spoil, pattern, message):
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        opened(root / pattern if pattern else root)
    assert "\n" not in str(raised.value)


def test_odd_names_are_read_and_shown_on_one_line(tmp_path):
    odd = ["with space", "Ünïcode ☃", "new\nline", "a/b c"]
    write_shard(tmp_path / "a folder/train ü.tar", {key: str(number % 2) for number, key in enumerate(odd)})
    write_shard(tmp_path / "a folder/val.tar", {"v": "1"})
    images = opened(tmp_path / "a folder")
    assert sorted(names(images.train)) == sorted(f"{key}.png" for key in odd)
    (tmp_path / "a folder/link.tar").symlink_to(tmp_path / "a folder/train ü.tar")
    assert len(opened(tmp_path / "a folder").train) == 8
    write_tar(tmp_path / "a folder/train ü.tar", {"new\nline.png": png(1)})
    with pytest.raises(ValueError, match=r"new\\nline\.png has no label"):
        opened(tmp_path / "a folder")


def test_an_image_that_is_gone_is_named(root):
    images = opened(root)
    (root / "x-val-0000.tar").write_bytes(b"")
    assert isinstance(images.val, ContainerSplit)
    with pytest.raises(BadImageError, match=r"x-val-0000\.tar:w\.png: the file ends before it"):
        images.val.read(0)


class TestAtAUrl:
    """Shards in fsspec's memory, as at any other URL."""

    @pytest.fixture
    def url(self, root: Path) -> str:
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        memory.store.clear()
        for file in root.iterdir():
            memory.pipe(f"/bucket/{file.name}", file.read_bytes())
        return "memory://bucket"

    @pytest.mark.parametrize("pattern", ["", "/x-{train-{0000..0001},val-0000}.tar"])
    def test_they_are_the_same_set(self, root, url, pattern):
        images, own = opened(url + pattern), opened(root)
        assert images.identity() == own.identity()
        assert np.array_equal(images.train.pixels(4, 3), own.train.pixels(4, 3))

    def test_a_shard_is_fetched_once(self, url, cache, monkeypatch):
        first = opened(url).identity()
        monkeypatch.setattr("imgcls.data.sets.remote._fetch", None)
        assert opened(url).identity() == first
        assert len(list(cache.glob("remote/*/*.tar"))) == 3

    @pytest.mark.parametrize(
        "address, message",
        [
            ("memory://bucket/x-train-{0000..0004}.tar", r"x-train-000[234]\.tar is not there; complete"),
            ("memory://elsewhere", r"there are no shards"),
            ("nothing://bucket/{0..3}.tar", r"data\.root=nothing://bucket/0\.tar: Protocol not known.*; use s3://"),
        ],
    )
    def test_what_cannot_be_read_is_one_clear_line(self, url, address, message):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            opened(address)

    def test_a_disk_that_is_too_small_is_found_before_anything_is_fetched(self, url, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 9})())
        with pytest.raises(ValueError, match=r"has 0\.0 GB free, .*IMGCLS_CACHE"):
            opened(url)

    def test_a_web_server_serves_them_too(self, root):
        pytest.importorskip("aiohttp")
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/x-{{train-{{0000..000{{}}}},val-0000}}.tar"
            try:
                assert opened(address.replace("{}", "1")).identity() == opened(root).identity()
                with pytest.raises((ValueError, FileNotFoundError), match=r"x-train-0002\.tar is not there; complete"):
                    opened(address.replace("{}", "2"))
            finally:
                server.shutdown()

    def test_a_web_server_may_take_its_time_but_not_fall_silent(self, root, monkeypatch):
        aiohttp = pytest.importorskip("aiohttp")

        class Slow(http.server.SimpleHTTPRequestHandler):
            def copyfile(self, source, outputfile):
                time.sleep(0.4)
                super().copyfile(source, outputfile)

        http_files = pytest.importorskip("fsspec.implementations.http").HTTPFileSystem
        monkeypatch.setattr(aiohttp.client, "DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=0.2))
        monkeypatch.setattr(remote, "NUM_TRIES", 1)
        handler = functools.partial(Slow, directory=str(root))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/x-{{train-{{0000..0001}},val-0000}}.tar"
            try:
                monkeypatch.setattr(remote, "SILENCE", 0.1)
                http_files.clear_instance_cache()
                with pytest.raises(ConfigError, match="cannot be fetched: "):
                    opened(address)
                monkeypatch.setattr(remote, "SILENCE", 60.0)
                assert len(opened(address).train) == len(opened(root).train)
            finally:
                http_files.clear_instance_cache()
                server.shutdown()


class TestOpenFiles:
    @pytest.fixture
    def root(self, tmp_path):
        for number in range(60):
            write_shard(tmp_path / f"train-{number:04}.tar", {f"{number:03}": str(number % 2)})
        write_shard(tmp_path / "val-0.tar", {"v": "0"})
        return tmp_path

    def test_more_shards_than_a_process_may_open_at_first_are_read(self, root):
        resource = pytest.importorskip("resource", reason="Windows has another limit")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open(os.devnull, os.O_RDONLY)  # the smallest number that is free
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 30, hard))
            train = opened(root).train
            assert isinstance(train, ContainerSplit)
            assert len({train.find(index) for index in range(60)}) == 1  # the same picture in all
            assert len(train._open) == 60
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_more_than_it_may_open_at_all_are_refused(self, root, monkeypatch):
        resource = pytest.importorskip("resource", reason="Windows has another limit")
        monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
        with pytest.raises(ConfigError, match=r"60 files are kept open, and the system lets a process open 64; raise"):
            opened(root)
