"""The packs: what was packed comes out, the same pixels or shrunk as said, in the same order; broken off it goes on."""

import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls.commands import pack as command
from imgcls.config import compose
from imgcls.data.augment import RandomResizedCrop, Whole
from imgcls.data.decoding import BadImageError, native
from imgcls.data.loading import Loader
from imgcls.data.sets import (
    ArraySplit,
    FileSplit,
    FolderSplit,
    ImageSet,
    PackSplit,
    make_pack,
    open_folder,
    open_image_set,
    open_pack,
)

pytestmark = pytest.mark.usefixtures("cache")

pack = importlib.import_module("imgcls.data.sets.pack")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """20 training and 6 validation images of two classes, from 60 to 800 pixels long, of several kinds."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 6)):
        for number in range(count):
            path = root / part / ("even" if number % 2 == 0 else "odd") / f"{number:02}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = 60 + 40 * number, 800 - 30 * number
            image = Image.fromarray(draws.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height))
            image = image.convert("L") if number % 5 == 1 else image
            options = {"format": "PNG"} if number % 5 == 2 else {"format": "JPEG", "progressive": number % 5 == 3}
            image.save(path, **options)
    Image.new("RGB", (50, 40), (9, 99, 199)).save(root / "train/odd/small.JPEG")
    return root


@pytest.fixture(scope="module")
def packed(root, tmp_path_factory) -> Path:
    """A lossy pack."""
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    make_pack(open_folder(str(root)), path, lossless=False, num_threads=3)
    return path


@pytest.fixture(scope="module")
def lossless(root, tmp_path_factory) -> Path:
    if not native.available():
        pytest.skip(native.why_not())
    path = tmp_path_factory.mktemp("pack") / "lossless.pack"
    make_pack(open_folder(str(root)), path, num_threads=3)
    return path


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_a_pack_holds_every_image_of_the_folder_in_its_order_with_its_label_and_name(root, packed):
    source, found = open_folder(str(root)), open_pack(str(packed))
    assert found.classes == source.classes == ["even", "odd"]
    assert (len(found.train), len(found.val)) == (21, 6)
    for name, one, other in (("train", found.train, source.train), ("val", found.val, source.val)):
        assert one.labels.tolist() == other.labels.tolist()
        for index in range(len(other)):
            assert one.path(index) == f"{packed}:{other.path(index)[len(str(root)) + 1 :]}"
            assert f":{name}/" in one.path(index)


def test_images_are_shrunk_to_400_pixels_in_their_shape_and_never_enlarged(root, packed):
    source, found = open_folder(str(root)), open_pack(str(packed))
    for one, other in ((found.train, source.train), (found.val, source.val)):
        assert not isinstance(one, ArraySplit)
        assert not isinstance(other, ArraySplit)
        for index in range(len(one)):
            small, large = opened(one.read(index)), opened(other.read(index))
            assert small.format == "JPEG"
            assert max(small.size) == min(400, max(large.size))
            scale = min(1, 400 / max(large.size))
            assert small.size == (round(large.width * scale), round(large.height * scale))
            assert small.mode == large.mode
            expected = np.asarray(large.resize(small.size, Image.Resampling.BICUBIC).convert("RGB"), float)
            assert np.abs(np.asarray(small.convert("RGB"), float) - expected).mean() < 4


def test_a_plain_jpeg_that_needs_no_shrinking_keeps_its_pixels(root, packed):
    train = open_pack(str(packed)).train
    assert isinstance(train, PackSplit)
    (index,) = (index for index in range(21) if train.path(index).endswith("small.JPEG"))
    assert (train.pixels(index, 3) == np.asarray(Image.open(root / "train/odd/small.JPEG"))).all()


def test_a_lossless_pack_has_the_pixels_of_every_file_and_the_bytes_of_all_but_baseline_jpegs(root, lossless):
    source, found = open_folder(str(root)), open_pack(str(lossless))
    rewritten = 0
    for one, other in ((found.train, source.train), (found.val, source.val)):
        assert isinstance(one, PackSplit)
        assert isinstance(other, FolderSplit)
        assert one.labels.tolist() == other.labels.tolist()
        for index in range(len(one)):
            file, packed_file = other.read(index), one.read(index)
            assert (one.pixels(index, 3) == other.pixels(index, 3)).all()
            baseline = b"\xff\xc0" in file and file[:2] == b"\xff\xd8"
            assert (b"imgcls" in packed_file) == baseline
            assert baseline or packed_file == file
            rewritten += baseline
    assert 10 < rewritten < 20


@pytest.mark.parametrize("kind", ["native", "pillow"])
def test_a_loader_gives_the_same_crops_from_a_lossless_pack_as_from_the_files(root, lossless, monkeypatch, kind):
    monkeypatch.setenv("IMGCLS_NATIVE", "1" if kind == "native" else "0")
    settings = {"image_size": 24, "batch_size": 5, "seed": 0, "shuffle": True, "flip": 0.5, "num_threads": 2}
    one, other = (
        Loader(found.train, RandomResizedCrop(), **settings)
        for found in (open_pack(str(lossless)), open_folder(str(root)))
    )
    for epoch in range(3):
        for left, right in zip(one.epoch(epoch), other.epoch(epoch), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_lossless_pack_turns_images_as_their_exif_data_say(root, tmp_path):
    if not native.available():
        pytest.skip(native.why_not())
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 6
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.open(root / "train/odd/19.JPEG").save(tmp_path / part / name / "1.JPEG", exif=exif)
    path = tmp_path / "turned.pack"
    make_pack(open_folder(str(tmp_path)), path)
    shown = []
    for words in ([f"data.root={path}", "data=pack"], [f"data.root={tmp_path}", "data=folder"]):
        split = open_image_set(compose(["model=lenet5", *words, "data.orientation=apply"])).train
        assert isinstance(split, FileSplit)
        (batch,) = Loader(split, RandomResizedCrop(), image_size=20, batch_size=2, seed=0, shuffle=False).epoch(0)
        shown += [split.pixels(0, 3), batch.images]
    assert shown[0].shape[:2] == Image.open(root / "train/odd/19.JPEG").size
    assert (shown[0] == shown[2]).all()
    assert torch.equal(shown[1], shown[3])
    assert b"a description" not in path.read_bytes()


def test_a_lossless_pack_needs_the_native_decoder_and_says_so(root, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLS_NATIVE", "0")
    with pytest.raises(
        ValueError, match=r"only the native decoder's .* IMGCLS_NATIVE=0 .* \(--lossy does without it\)"
    ):
        make_pack(open_folder(str(root)), tmp_path / "a.pack")


def test_a_lossy_pack_of_an_earlier_version_is_read(packed, tmp_path):
    about = {"longest": 400, "quality": 90, "num_train": 21, "classes": ["even", "odd"]}
    old = edited(packed, tmp_path / "old.pack", about=np.frombuffer(json.dumps(about).encode(), np.uint8))
    assert len(open_pack(str(old)).train) == 21


@pytest.mark.parametrize("kind", ["native", "pillow"])
def test_the_loader_reads_a_pack_as_it_reads_the_same_files_in_folders(packed, tmp_path, monkeypatch, kind):
    if kind == "native" and not native.available():
        pytest.skip(native.why_not())
    monkeypatch.setenv("IMGCLS_NATIVE", "1" if kind == "native" else "0")
    found = open_pack(str(packed))
    for split in (found.train, found.val):
        assert isinstance(split, PackSplit)
        for index in range(len(split)):
            path = tmp_path / split.path(index).split(":", 1)[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(split.read(index))
    settings = {"image_size": 24, "batch_size": 5, "seed": 0, "shuffle": True, "flip": 0.5, "num_threads": 2}
    one, other = (
        Loader(split, RandomResizedCrop(), **settings) for split in (found.train, open_folder(str(tmp_path)).train)
    )
    for epoch in range(2):
        for left, right in zip(one.epoch(epoch), other.epoch(epoch), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_lossless_pack_is_no_larger_than_its_files_and_has_as_many_markers_as_that_allows(tmp_path, monkeypatch):
    if not native.available():
        pytest.skip(native.why_not())
    plain = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    image, files = Image.fromarray(plain).resize((800, 600), Image.Resampling.BICUBIC), {}
    # By name: what is optimised already, and grows by markers; then what shrinks, as it is not; then the first again.
    for name, label, optimize, quality in (("a", "x", True, 75), ("b", "x", False, 98), ("c", "y", True, 75)):
        for place in (f"train/{label}", f"val/{label}"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / place / f"{name}.JPEG", optimize=optimize, quality=quality)
            files[name] = (tmp_path / place / f"{name}.JPEG").read_bytes()
    sizes = {name: len(native.write_restarts(files[name], blocks=8) or b"") for name in files}
    saved = len(files["b"]) - sizes["b"]
    assert sizes["a"] > len(files["a"])
    assert saved > sizes["c"] - len(files["c"])

    monkeypatch.setattr(pack, "BLOCKS", (8,))
    done = make_pack(open_folder(str(tmp_path)), tmp_path / "a.pack")
    assert (done.num_larger, done.num_of_other_kind) == (1, 0)  # the first, before any bytes are saved
    images = open_pack(str(tmp_path / "a.pack"))
    assert isinstance(images.train, PackSplit)
    assert isinstance(images.val, PackSplit)
    packed = [split.read(index) for split in (images.train, images.val) for index in range(3)]
    assert [len(data) for data in packed] == [
        len(files["a"]),
        sizes["b"],
        sizes["c"],
        sizes["a"],
        sizes["b"],
        sizes["c"],
    ]

    for place in ("train/x", "val/x"):
        (tmp_path / place / "b.JPEG").unlink()
    alone = make_pack(open_folder(str(tmp_path)), tmp_path / "b.pack")
    assert alone.num_larger == 4


class Broken(Exception):
    """What ends a packing in the middle."""


@pytest.mark.parametrize("after", [0, 1, 7, 20, 26])
@pytest.mark.parametrize("kind", ["packed", "lossless"])
def test_packing_that_was_broken_off_goes_on_and_gives_the_same_file(root, request, tmp_path, monkeypatch, kind, after):
    whole = request.getfixturevalue(kind)
    path, images = tmp_path / "b.pack", open_folder(str(root))
    monkeypatch.setattr(pack, "NOTE_EVERY", 3)
    counts = []

    def broken(encoded, done, total):
        for number, data in enumerate(encoded):
            if number == after:
                raise Broken
            yield data

    with pytest.raises(Broken):
        make_pack(images, path, progress=broken, lossless=kind == "lossless")
    assert not path.exists()
    with open(tmp_path / "b.pack.part", "ab") as part:
        part.write(b"half an image")
    done = make_pack(
        images, path, progress=lambda encoded, *count: counts.append(count[0]) or encoded, lossless=kind == "lossless"
    )
    assert path.read_bytes() == whole.read_bytes()
    assert done.num_of_other_kind == (10 if kind == "lossless" else 0)
    assert [found.name for found in tmp_path.iterdir()] == ["b.pack"]
    assert counts[0] <= after


def test_what_was_noted_is_not_encoded_again(root, tmp_path, monkeypatch):
    images, path = open_folder(str(root)), tmp_path / "b.pack"
    monkeypatch.setattr(pack, "NOTE_EVERY", 4)
    todo = iter(range(1000))

    def broken(encoded, done, total):
        for data in encoded:
            if next(todo) == 11:
                raise Broken
            yield data

    with pytest.raises(Broken):
        make_pack(images, path, progress=broken, lossless=False)
    counted = []
    make_pack(images, path, progress=lambda encoded, *counts: counted.append(counts) or encoded, lossless=False)
    assert counted == [(8, 27)]


def test_going_on_with_other_settings_is_refused(root, tmp_path):
    path, images = tmp_path / "b.pack", open_folder(str(root))
    with pytest.raises(Broken):
        make_pack(images, path, progress=raising, lossless=False)
    with pytest.raises(ValueError, match=r"b\.pack\.part was begun from other images or with other settings; remove"):
        make_pack(images, path, quality=80, lossless=False)
    with pytest.raises(FileNotFoundError, match=r"is unfinished: run `imgcls pack` again"):
        open_pack(str(path))


def raising(encoded, done, total):
    raise Broken


def test_two_processes_do_not_write_the_same_pack(root, packed, tmp_path):
    path, images = tmp_path / "b.pack", open_folder(str(root))

    def meanwhile(encoded, done, total):
        with pytest.raises(ValueError, match=r"b\.pack is being packed by another process; wait for it, or name"):
            make_pack(images, path, lossless=False)
        return encoded

    make_pack(images, path, progress=meanwhile, lossless=False)
    assert path.read_bytes() == packed.read_bytes()


def test_a_file_that_cannot_be_decoded_is_named_also_by_the_run_that_goes_on_after_a_break(root, tmp_path, monkeypatch):
    for part in ("train", "val"):
        for number in range(6):
            file = tmp_path / part / "ab"[number % 2] / f"{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes((root / "train/odd/19.JPEG").read_bytes()[: -300 if number == 2 else None])
    images, path = open_folder(str(tmp_path)), tmp_path / "c.pack"
    whole = make_pack(images, tmp_path / "whole.pack", lossless=False)
    monkeypatch.setattr(pack, "NOTE_EVERY", 1)

    def broken(encoded, done, total):
        for number, data in enumerate(encoded):
            if number == 5:
                raise Broken
            yield data

    with pytest.raises(Broken):
        make_pack(images, path, progress=broken, lossless=False)
    packed_again = make_pack(images, path, lossless=False)
    assert packed_again == whole
    assert [Path(reason.partition(": ")[0]).parent.parent.name for reason in packed_again.broken] == ["train", "val"]
    assert path.read_bytes() == (tmp_path / "whole.pack").read_bytes()


def test_a_file_that_cannot_be_decoded_is_named_and_packed_for_the_loader_to_judge(root, tmp_path):
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.JPEG").write_bytes((root / "train/odd/small.JPEG").read_bytes())
    (tmp_path / "train/a/1.JPEG").write_bytes((root / "train/odd/19.JPEG").read_bytes()[:-300])
    packed_again = make_pack(open_folder(str(tmp_path)), tmp_path / "c.pack")
    assert len(packed_again.broken) == 1
    assert "train/a/1.JPEG: cannot be decoded" in packed_again.broken[0]
    train = open_pack(str(tmp_path / "c.pack")).train
    one = Loader(train, Whole(), image_size=8, batch_size=2, seed=0, shuffle=True)
    with pytest.raises(BadImageError, match=r"c\.pack:train/a/1\.JPEG: cannot be decoded"):
        list(one.epoch(0))


def test_a_pack_that_lost_its_end_or_its_index_is_refused(packed, tmp_path):
    data = packed.read_bytes()
    for name, content, reason in [
        ("short", data[:-1], "is no pack, or its end is missing"),
        ("empty", b"", "is no pack"),
        ("index", data[:-600] + bytes(584) + data[-16:], "the index of the pack is broken"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            open_pack(str(tmp_path / name))


def test_a_pack_cut_short_while_it_is_read_names_the_image(packed, tmp_path):
    path = tmp_path / "d.pack"
    path.write_bytes(packed.read_bytes())
    train = open_pack(str(path)).train
    path.write_bytes(b"")
    with pytest.raises(BadImageError, match=r"d\.pack:train/.*: the pack ends before it; pack it again"):
        list(Loader(train, Whole(), image_size=8, batch_size=2, seed=0, shuffle=True).epoch(0))


@pytest.mark.skipif(not native.available(), reason=native.why_not() or "no native decoder")
def test_a_read_of_a_pack_that_fails_once_gives_the_pixels_of_one_that_does_not(packed, monkeypatch):
    def shown() -> list[torch.Tensor]:
        train = open_pack(str(packed)).train
        one = Loader(train, RandomResizedCrop(), image_size=24, batch_size=7, seed=0, shuffle=True)
        return [batch.images.clone() for batch in one.epoch(0)]

    whole, honest, failed = shown(), PackSplit._read, set()

    def fails_once(self: PackSplit, index: int) -> bytes:
        if index not in failed:
            failed.add(index)
            raise OSError(5, "Input/output error")
        return honest(self, index)

    monkeypatch.setattr(PackSplit, "_read", fails_once)
    monkeypatch.setattr("imgcls.data.sets.files.HAS_PREAD", False)  # the native decoder reads by itself otherwise
    assert all(torch.equal(one, other) for one, other in zip(whole, shown(), strict=True))
    assert len(failed) == 21


@pytest.mark.parametrize(
    "named, error, message",
    [
        (None, ValueError, "data.root is not set; name a pack that `imgcls pack` made"),
        ("/nowhere/a.pack", FileNotFoundError, "data.root=/nowhere/a.pack is no file; make a pack with"),
    ],
)
def test_a_missing_pack_is_refused_with_the_way_out(named, error, message):
    with pytest.raises(error, match=message):
        open_pack(named)


def test_settings_and_sets_that_make_no_sense_are_refused(root, packed, tmp_path):
    images = open_folder(str(root))
    with pytest.raises(ValueError, match="longest=5, quality=90: use 32 px or more"):
        make_pack(images, tmp_path / "e", longest=5, lossless=False)
    with pytest.raises(ValueError, match="quality=99"):
        make_pack(images, tmp_path / "e", quality=99, lossless=False)
    with pytest.raises(FileExistsError, match="exists; remove it to pack again"):
        make_pack(images, packed, lossless=False)
    assert list(packed.parent.glob(f"{packed.name}.part*")) == []
    split = ArraySplit(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2))
    with pytest.raises(ValueError, match="only sets of image files can be packed"):
        make_pack(ImageSet(split, split, ["a", "b"], 3), tmp_path / "e", lossless=False)


def run_script(*words: str) -> SystemExit | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pack.py", *words])
        try:
            return command.main()
        except SystemExit as end:
            return end


def test_the_script_packs_without_loss_unless_asked_to_and_says_which(root, tmp_path, capsys):
    words = [str(root), str(tmp_path / "a.pack"), "--threads", "1"]
    if native.available():
        run_script(*words)
        shown = capsys.readouterr().out
        assert shown.startswith("lossless: every image keeps its pixels")
        assert "packed as they are: 10 images, no baseline JPEGs" in shown
        assert "27 images" in shown
        ended = run_script(*words, "--lossless")
        assert ended is not None
        assert ended.code == 2
        assert "exists; remove it to pack again" in capsys.readouterr().err
        assert run_script(*words, "--quality", "80").code == 2
        assert "--quality 80 is of a lossy pack: add --lossy, or leave --quality out" in capsys.readouterr().err
    words = ["data=folder", f"data.root={root}"]
    run_script(*words, str(tmp_path / "b.pack"), "--lossy", "--quality", "80")
    assert capsys.readouterr().out.startswith("lossy: longer side at most 400 px, JPEG quality 80")


@pytest.mark.parametrize(
    "words, message",
    [
        (["a.pack"], "error: name the images once: "),
        (["data=folder", "data.root=b", "b", "a.pack"], "error: name the images once"),
        (["data=folder", "data.root=b", "a.pack", "--val", "test"], "error: --train and --val are folders of DIR"),
        (["data=folder", "data.root=b", "data.alpha=white", "a.pack"], "leave them out; train.py takes them"),
        (["data=digits", "a.pack", "--lossy"], "error: this set is in memory as it is; only sets of image files"),
        (["data=foldr", "a.pack"], "error: data=foldr: there is no such data (did you mean folder?)"),
        (["/nowhere", "a.pack"], "error: data.root=/nowhere is not a folder"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message, capsys):
    ended = run_script(*words)
    assert ended is not None
    assert ended.code == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_run_trains_from_a_pack(packed, train, tmp_path):
    size = ["model=lenet5", "image_size=32", "batch_size=5", "epochs=1", "logger=none", "data.num_threads=1"]
    results = train(compose(["data=pack", f"data.root={packed}", *size]))
    assert results["steps"] == 4


@pytest.mark.parametrize("kind", ["lengths", "compressed", "a header of 8 TB"])
def test_a_pack_whose_index_claims_more_than_there_is_is_refused(packed, tmp_path, kind):
    data = packed.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")
    images, npz = data[: -16 - length], data[-16 - length : -16]
    arrays = dict(np.load(io.BytesIO(npz)))
    if kind == "lengths":
        arrays["lengths"] = arrays["lengths"].copy()
        arrays["lengths"][0] = 2**32 - 1
    if kind == "compressed":
        arrays["names"] = np.zeros(1 << 24, np.uint8)
    file = io.BytesIO()
    (np.savez_compressed if kind == "compressed" else np.savez)(file, **arrays)
    index = file.getvalue()
    if kind == "a header of 8 TB":
        shape = f"({len(arrays['lengths'])},)"
        header = index.index(shape.encode())
        index = index[:header] + b"(8" + b"0" * 12 + b",)" + index[header + 16 :]
    file = tmp_path / "odd.pack"
    file.write_bytes(images + index + len(index).to_bytes(8, "little") + data[-8:])
    with pytest.raises(ValueError, match=r"odd\.pack: the index .*; pack the images again"):
        open_pack(str(file))


def edited(packed: Path, path: Path, **changes) -> Path:
    """A copy of the pack whose index has other arrays."""
    data = packed.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")
    with np.load(io.BytesIO(data[-16 - length : -16])) as index:
        arrays = dict(index) | changes
    file = io.BytesIO()
    np.savez(file, **arrays)
    written = file.getvalue()
    path.write_bytes(data[: -16 - length] + written + len(written).to_bytes(8, "little") + data[-8:])
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": np.zeros(0, np.uint32)},
        {"lengths": np.full(27, 2**31 - 1, np.uint32)},
        {"lengths": np.full(27, -1)},
        {"lengths": np.zeros(27, "<U4")},
        {"lengths": np.zeros((27, 1), np.uint32)},
        {"labels": np.full(27, 9)},
        {"labels": np.full(27, -1)},
        {"labels": np.zeros(3, np.int64)},
        {"name_lengths": np.ones(27, np.uint32)},
        {"names": np.zeros(3, np.uint8)},
        {"about": np.frombuffer(b"[]", np.uint8)},
        {"about": np.frombuffer(b'{"longest": 1}', np.uint8)},
        {"about": np.frombuffer(b'{"lossless": "yes", "num_train": 21, "classes": ["a", "b"]}', np.uint8)},
        {"about": np.frombuffer(b'{"lossless": false, "num_train": 21, "classes": ["a", "b"]}', np.uint8)},
        {"about": np.frombuffer(b'{"longest": 1, "quality": "x", "num_train": 21, "classes": ["a", "b"]}', np.uint8)},
        {"about": np.frombuffer(b'{"longest": 1, "quality": 1, "num_train": 27, "classes": ["a", "b"]}', np.uint8)},
        {"about": np.frombuffer(b'{"longest": 1, "quality": 1, "num_train": 21, "classes": "ab"}', np.uint8)},
    ],
)
def test_a_pack_whose_index_was_edited_is_refused_with_its_name(changes, packed, tmp_path):
    open_pack(str(edited(packed, tmp_path / "a.pack")))
    with pytest.raises(ValueError, match=r"b\.pack: the index of the pack is broken .*pack the images again"):
        open_pack(str(edited(packed, tmp_path / "b.pack", **changes)))
