"""The loader: what a batch holds is a function of (seed, epoch, position), whoever decodes it; and nothing hangs."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls.data.augment import CenterCrop, Pad, PadCrop, RandomResizedCrop, ScaleJitterCrop, TrivialAugment, Whole
from imgcls.data.decoding import BadImageError, CachingReader, FileReader, decode_box, describe_decoder, native, readers
from imgcls.data.loading import Batch, Loader
from imgcls.data.sets import ArraySplit, FolderSplit, open_folder
from imgcls.environment import default_num_threads
from imgcls.inference import predict
from imgcls.training import validate

pytestmark = pytest.mark.usefixtures("cache")

NUM = 43


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """43 training and 9 validation images of varied size; every fifth is a PNG or progressive, for Pillow."""
    root = tmp_path_factory.mktemp("images")
    draws = np.random.default_rng(0)
    for part, count in (("train", NUM), ("val", 9)):
        for number in range(count):
            path = root / part / ("even" if number % 2 == 0 else "odd") / f"{number:02}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = draws.integers(0, 256, (5, 6, 3), np.uint8)
            image = Image.fromarray(small).resize((40 + number, 70 - number), Image.Resampling.BICUBIC)
            options = {"format": "PNG"} if number % 10 == 5 else {"format": "JPEG", "progressive": number % 10 == 0}
            image.save(path, **options)
    return root


@pytest.fixture
def train(root) -> FolderSplit:
    split = open_folder(str(root)).train
    assert isinstance(split, FolderSplit)
    return split


@pytest.fixture(params=["native", "pillow", "kept"])
def kind(request, monkeypatch) -> dict[str, float]:
    """Each way of getting pixels from files, as arguments of the loader."""
    if request.param == "native" and not native.available():
        pytest.skip(native.why_not())
    if request.param != "native":
        monkeypatch.setenv("IMGCLS_NATIVE", "0")
    return {"cache_gb": 1.0 if request.param == "kept" else 0.0}


def make(split, crop=None, **changes) -> Loader:
    settings = {"image_size": 16, "batch_size": 8, "seed": 3, "shuffle": True, "flip": 0.5, "num_threads": 2}
    return Loader(split, crop or RandomResizedCrop(), **(settings | changes))


def all_of(one: Loader, epoch: int = 0, start: int = 0) -> list[Batch]:
    return [Batch(*(tensor.clone() for tensor in batch)) for batch in one.epoch(epoch, start=start)]


def assert_same(one: list[Batch], two: list[Batch]) -> None:
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_batch_is_bytes_with_the_labels_and_places_of_its_images(train, kind):
    batches = all_of(make(train, **kind))
    assert len(batches) == make(train, **kind).num_batches == 5
    for images, labels, indices in batches:
        assert images.shape == (8, 16, 16, 3)
        assert images.dtype == torch.uint8
        assert labels.tolist() == train.labels[indices.numpy()].tolist()
    seen = torch.cat([batch.indices for batch in batches])
    assert len(seen.unique()) == 40


def test_each_image_is_its_planned_crop(train, kind):
    one = make(train, **kind)
    for images, _, indices in one.epoch(2):
        numbers = indices.numpy()
        for image, index in zip(images.numpy(), numbers, strict=True):
            data = train.read(int(index))
            size = np.array([readers.read_size(data, "")])
            box = one.plan.boxes(2, np.array([index]), size)[0]
            expected = np.empty((16, 16, 3), np.uint8)
            decode_box(data, box, expected, flip=bool(one.plan.flips(2, np.array([index]))[0]), name="")
            assert np.abs(image.astype(int) - expected).mean() < 3  # decoders round, and Pillow may draft


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_the_number_of_threads_changes_nothing(train, kind, threads):
    assert_same(all_of(make(train, num_threads=threads, **kind)), all_of(make(train, **kind)))


@pytest.mark.parametrize("prefetch", [1, 2, 50])
def test_the_depth_of_prefetching_changes_nothing(train, prefetch):
    assert_same(all_of(make(train, prefetch=prefetch)), all_of(make(train)))


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_an_epoch_from_the_middle_is_the_tail_of_the_whole(train, kind, start):
    assert_same(all_of(make(train, **kind), epoch=3, start=start), all_of(make(train, **kind), epoch=3)[start:])


def test_nothing_before_the_start_is_read(train, monkeypatch):
    one = make(train, cache_gb=0)
    filled = []
    honest = one.reader.fill
    monkeypatch.setattr(one.reader, "fill", lambda *args: filled.extend(args[2].tolist()) or honest(*args))
    rest = all_of(one, start=3)
    assert sorted(filled) == sorted(torch.cat([batch.indices for batch in rest]).tolist())


def test_epochs_differ_and_seeds_differ(train):
    one = make(train)
    first, second, other = all_of(one, 0), all_of(one, 1), all_of(make(train, seed=4), 0)
    assert not torch.equal(first[0].indices, second[0].indices)
    assert not torch.equal(first[0].indices, other[0].indices)
    assert_same(all_of(one, 0), first)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_that_one_process_would_see(train, world_size):
    whole = all_of(make(train))
    parts = [all_of(make(train, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
        assert torch.equal(torch.cat([share.indices for share in shares]), batch.indices)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_validation_image_counts_once_on_any_number_of_ranks(root, world_size, kind):
    val = open_folder(str(root)).val
    seen = []
    for rank in range(world_size):
        one = make(val, CenterCrop(), shuffle=False, flip=0, rank=rank, world_size=world_size, **kind)
        batches = all_of(one)
        assert len(batches) == one.num_batches
        assert one.num_images == 9
        seen += torch.cat([batch.indices for batch in batches]).tolist()
        assert all(len(batch.images) == len(batch.labels) == len(batch.indices) for batch in batches)
    assert sorted(seen) == list(range(9))


def test_more_ranks_than_images_leaves_some_without_any(root):
    val = open_folder(str(root)).val
    counts = [
        sum(len(batch.labels) for batch in make(val, shuffle=False, batch_size=16, rank=rank, world_size=16).epoch(0))
        for rank in range(16)
    ]
    assert counts == [1] * 9 + [0] * 7


def test_an_epoch_left_early_leaves_no_work_behind_and_the_next_is_right(train, kind):
    one = make(train, **kind)
    expected = all_of(one, 1)
    running = one.epoch(0)
    next(running)
    running.close()
    assert_same(all_of(one, 1), expected)
    before = threading.active_count()
    for _ in range(3):
        next(one.epoch(0))
    assert threading.active_count() == before
    one.close()


def test_two_epochs_at_once_do_not_disturb_each_other(train):
    one = make(train)
    expected = [all_of(one, 0), all_of(one, 1)]
    both = list(zip(one.epoch(0), one.epoch(1), strict=True))
    assert_same([pair[0] for pair in both][-1:], expected[0][-1:])
    assert_same([pair[1] for pair in both][-1:], expected[1][-1:])


def test_buffers_are_used_again_epoch_after_epoch(train):
    one = make(train, prefetch=2)
    places = {batch.images.data_ptr() for epoch in range(4) for batch in one.epoch(epoch)}
    assert len(places) <= 3


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(train):
    running = make(train, prefetch=1).epoch(0)
    batch = next(running)
    copy = batch.images.clone()
    for other in make(train).epoch(1):
        del other
    assert torch.equal(batch.images, copy)
    running.close()


def test_a_policy_is_keyed_like_everything_else(train, kind):
    policy = TrivialAugment()
    one = all_of(make(train, policy=policy, num_threads=1, **kind))
    assert_same(all_of(make(train, policy=policy, num_threads=5, **kind)), one)
    assert not torch.equal(one[0].images, all_of(make(train, **kind))[0].images)


def spoil(root: Path, where: Path, num: int, *, total: int = 300) -> FolderSplit:
    """A split of `total` files, of which the first `num` are truncated."""
    good = (root / "train/odd/01.JPEG").read_bytes()
    for part, count in (("train", total), ("val", 2)):
        for number in range(count):
            path = where / part / ("a" if number % 2 == 0 else "b") / f"{number:04}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(good[:-60] if part == "train" and number < num else good)
    split = open_folder(str(where)).train
    assert isinstance(split, FolderSplit)
    return split


def test_a_bad_image_ends_the_epoch_with_its_name_and_the_reason(root, tmp_path, kind):
    one = make(spoil(root, tmp_path, 1), **kind)
    with pytest.raises(BadImageError, match=r"train/a/0000\.JPEG: .*truncated"):
        all_of(one)
    with pytest.raises(BadImageError, match=r"0000\.JPEG"):
        all_of(one)
    assert len(one.bad_images) == 0


def test_a_skipped_image_is_counted_and_replaced_the_same_way_by_any_number_of_threads(root, tmp_path, kind):
    split = spoil(root, tmp_path, 2)
    ones = [make(split, on_bad_image="skip", num_threads=threads, **kind) for threads in (1, 4)]
    batches = [all_of(one) for one in ones]
    assert_same(*batches)
    seen = torch.cat([batch.indices for batch in batches[0]])
    bad = [index for index in range(300) if "0000.JPEG" in split.path(index) or "0001.JPEG" in split.path(index)]
    assert not set(bad) & set(seen.tolist())
    assert len(seen) == 296
    assert len(ones[0].bad_images) == len(set(bad) & set(np.concatenate([one._order(0) for one in ones[:1]]).tolist()))
    assert torch.cat([batch.labels for batch in batches[0]]).tolist() == split.labels[seen.numpy()].tolist()


def test_a_skipped_image_is_left_out_of_validation(root, tmp_path, kind):
    split = spoil(root, tmp_path, 2)
    one = make(split, CenterCrop(), shuffle=False, flip=0, on_bad_image="skip", **kind)
    batches = all_of(one)
    seen = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(one.bad_images) == 2
    assert len(seen) == len(set(seen)) == 298
    assert {"0000.JPEG", "0001.JPEG"} & {split.path(i)[-9:] for i in seen} == set()


def test_more_than_one_percent_of_bad_images_is_an_error_even_when_skipping(root, tmp_path, kind):
    one = make(spoil(root, tmp_path, 9), on_bad_image="skip", **kind)
    with pytest.raises(ValueError, match=r"4 of 300 images are bad, more than 0\.01 .*truncated"):
        all_of(one)


def test_a_batch_of_bad_images_alone_is_scored_and_predicted_as_if_they_were_not_there(root, tmp_path, kind):
    split = spoil(root, tmp_path, 4, total=402)
    one = make(split, CenterCrop(), shuffle=False, flip=0, batch_size=2, on_bad_image="skip", **kind)
    sizes = [len(batch.labels) for batch in one.epoch(0)]
    assert (sizes[0], sizes.count(0), len(sizes)) == (0, 1, 201)

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert len(images)
            return images.float().mean(dim=(1, 2))

    counts: list[int] = []
    settings = {"prepare": lambda images: images, "device": torch.device("cpu")}
    scores = validate(Network(), one.epoch(0), num_classes=3, after_batch=lambda meter: counts.append(1), **settings)
    assert scores.num_images == 398
    assert np.isfinite(scores.loss)
    assert len(counts) == one.num_batches == 201  # ranks agree after each
    found = predict(Network(), one.epoch(0), after_batch=counts.append, **settings)
    assert len(found.indices) == 398
    assert len(counts) == 402


def test_a_file_that_vanishes_in_the_middle_of_an_epoch_is_named(root, tmp_path):
    split = spoil(root, tmp_path, 0, total=64)
    one = make(split, prefetch=1)
    running = one.epoch(0)
    next(running)
    for path in (tmp_path / "train").rglob("*.JPEG"):
        path.unlink()
    with pytest.raises(BadImageError, match="is gone since the folder was listed"):
        list(running)


def test_an_error_of_ours_in_a_thread_reaches_the_caller(train, monkeypatch):
    one = make(train)

    def broken(*args: object) -> None:
        raise RuntimeError("a fault in a thread")

    monkeypatch.setattr(one.reader, "fill", broken)
    with pytest.raises(RuntimeError, match="a fault in a thread"):
        next(one.epoch(0))


def array_split(size: int = 12, num: int = 50, channels: int = 1) -> ArraySplit:
    draws = np.random.default_rng(0)
    return ArraySplit(draws.integers(0, 256, (num, size, size, channels), np.uint8), np.arange(num) % 10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "crop, image_size",
    [(Whole(), 12), (Pad(2), 16), (PadCrop(3), 12), (PadCrop(0), 12), (Pad(0), 12), (PadCrop(2), [12, 8])],
)
def test_copying_crops_of_arrays_are_exactly_the_planned_boxes(crop, image_size, channels):
    split = array_split(channels=channels)
    one = make(split, crop, image_size=image_size, channels=channels)
    for images, labels, indices in one.epoch(1):
        numbers = indices.numpy()
        boxes = one.plan.boxes(1, numbers, np.full((8, 2), 12)).astype(int) + 12
        flips = one.plan.flips(1, numbers)
        for image, index, (left, top, right, bottom), flip in zip(images, numbers, boxes, flips, strict=True):
            window = np.pad(split.images[index], ((12, 12), (12, 12), (0, 0)))[top:bottom, left:right]
            assert np.array_equal(image.numpy(), window[:, ::-1] if flip else window)
        assert labels.tolist() == (numbers % 10).tolist()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_rectangles_are_resampled_alike_from_files_and_arrays(train, kind, interpolation):
    how, filter_ = {"shuffle": False, "flip": 0}, Image.Resampling[interpolation.upper()]
    how["interpolation"] = interpolation
    one = make(train, Whole(), image_size=[12, 20], **how, **kind)
    images, _, indices = next(one.epoch(0))
    assert images.shape == (8, 12, 20, 3)
    expected = np.asarray(Image.open(train.path(int(indices[0]))).resize((20, 12), filter_))
    assert np.abs(images[0].numpy().astype(int) - expected).max() <= 1
    split = array_split(size=24, channels=3)
    images = next(make(split, Whole(), image_size=[12, 20], **how).epoch(0)).images
    expected = np.asarray(Image.fromarray(split.images[0]).resize((20, 12), filter_))
    assert np.array_equal(images[0].numpy(), expected)


def test_two_epochs_of_an_array_at_once_do_not_disturb_each_other():
    one, *alone = (make(array_split(channels=3), PadCrop(3), image_size=12) for _ in range(3))
    expected = [all_of(loader, epoch) for epoch, loader in enumerate(alone)]
    pairs = list(zip(one.epoch(0), one.epoch(1), strict=True))
    assert_same([pair[0] for pair in pairs][-1:], expected[0][-1:])
    assert_same([pair[1] for pair in pairs][-1:], expected[1][-1:])


def test_resized_crops_of_arrays_are_pillows():
    split = array_split(channels=3)
    one = make(split, RandomResizedCrop(), flip=0)
    for images, _, indices in one.epoch(0):
        boxes = one.plan.boxes(0, indices.numpy(), np.full((8, 2), 12))
        for image, index, box in zip(images, indices, boxes, strict=True):
            whole = Image.fromarray(split.images[index])
            expected = np.asarray(whole.resize((16, 16), Image.Resampling.BILINEAR, box=tuple(box)))
            assert np.array_equal(image.numpy(), expected)


def test_validation_of_an_array_is_every_image_in_order():
    split = array_split()
    one = make(split, Whole(), image_size=12, channels=1, shuffle=False, flip=0)
    assert torch.equal(torch.cat([batch.images for batch in all_of(one)]), torch.from_numpy(split.images))


def test_images_are_kept_decoded_only_where_all_of_them_fit(train, monkeypatch):
    monkeypatch.setenv("IMGCLS_NATIVE", "0")
    num_bytes = sum(int(np.prod(readers.read_size(train.read(i), ""))) * 4 for i in range(len(train)))
    assert isinstance(make(train, cache_gb=num_bytes / 1e9).reader, CachingReader)
    assert isinstance(make(train, cache_gb=(num_bytes - 1) / 1e9).reader, FileReader)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [4, 16, 90])  # 4: where Pillow decodes most at a reduced size
@pytest.mark.parametrize("crop", [RandomResizedCrop(), ScaleJitterCrop(), PadCrop(2), Whole()], ids=repr)
def test_keeping_images_decoded_changes_no_pixel(train, monkeypatch, crop, image_size, channels):
    monkeypatch.setenv("IMGCLS_NATIVE", "0")
    kept, decoded_again = (
        make(train, crop, image_size=image_size, channels=channels, cache_gb=gb) for gb in (1.0, 0.0)
    )
    assert isinstance(kept.reader, CachingReader)
    for epoch in (0, 1):
        assert_same(all_of(kept, epoch), all_of(decoded_again, epoch))


@pytest.mark.skipif(not native.available(), reason=native.why_not())
def test_a_set_with_one_file_that_the_native_decoder_takes_is_not_kept(root, tmp_path):
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(30):
                Image.new("RGB", (9, 9)).save(tmp_path / part / name / f"{number}.png")
    path = tmp_path / "train/b/17.png"
    path.write_bytes((root / "train/odd/01.JPEG").read_bytes())
    with_one = open_folder(str(tmp_path)).train
    assert isinstance(make(with_one, cache_gb=1).reader, FileReader)
    path.write_bytes((tmp_path / "train/b/18.png").read_bytes())
    assert isinstance(make(with_one, cache_gb=1).reader, CachingReader)


@pytest.mark.skipif(not native.available(), reason=native.why_not())
def test_images_that_the_native_decoder_takes_are_not_kept_and_others_are(train, root, tmp_path):
    assert isinstance(make(train, cache_gb=1).reader, FileReader)
    (png,) = (root / "train/odd").glob("05.*")
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").write_bytes(png.read_bytes())
    others = open_folder(str(tmp_path)).train
    assert isinstance(make(others, batch_size=2, cache_gb=1).reader, CachingReader)


def test_the_decoder_in_use_is_named(monkeypatch):
    monkeypatch.setenv("IMGCLS_NATIVE", "0")
    assert describe_decoder() == "Pillow (IMGCLS_NATIVE=0 switches the native decoder off)"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 44}, "batch_size=44 is more than the 43 training images.*use at most 43"),
        ({"batch_size": 9, "world_size": 2}, "batch_size=9 does not divide over 2 ranks; use a multiple of 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_threads": 0}, r"data\.num_threads=0; use 1 or more"),
        ({"prefetch": 0}, r"data\.prefetch=0; use 1 or more"),
        ({"on_bad_image": "ignore"}, r"data\.on_bad_image='ignore'; use raise or skip"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_way_out(train, changes, message):
    with pytest.raises(ValueError, match=message):
        make(train, **changes)


def test_another_number_of_channels_than_the_arrays_is_refused():
    with pytest.raises(ValueError, match=r"data\.channels=3 but the images have 1"):
        make(array_split(), channels=3)


def test_ranks_of_one_machine_share_its_cores(monkeypatch):
    alone = default_num_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "10000")
    assert default_num_threads() == 1 <= alone <= (os.cpu_count() or 1)


def test_grey_networks_get_one_channel_from_files(train, kind):
    batch = all_of(make(train, channels=1, **kind))[0]
    assert batch.images.shape == (8, 16, 16, 1)


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_the_cpu(train):
    on_gpu = [Batch(*(tensor.cpu() for tensor in batch)) for batch in make(train, device="cuda").epoch(0)]
    assert_same(on_gpu, all_of(make(train)))


@pytest.mark.skipif(not native.available(), reason=native.why_not() or "no native decoder")
def test_a_read_that_fails_once_gives_the_pixels_of_one_that_does_not(train, monkeypatch) -> None:
    whole = all_of(make(train))
    # Where the native decoder cannot open a file and Python can: its bytes are still the native decoder's.
    monkeypatch.setattr(FolderSplit, "open_in", lambda self, space, indices: space.open_files(["/gone"] * len(indices)))
    assert_same(all_of(make(train)), whole)


def test_a_kept_image_that_could_not_be_read_when_the_set_was_opened_is_shown_whole(train, monkeypatch) -> None:
    monkeypatch.setenv("IMGCLS_NATIVE", "0")
    whole = all_of(make(train))
    honest = FolderSplit.read

    def failing(self: FolderSplit, index: int) -> bytes:
        raise BadImageError(self.path(index), "cannot be read: Input/output error")

    monkeypatch.setattr(FolderSplit, "read", failing)
    kept = make(train, cache_gb=1)
    monkeypatch.setattr(FolderSplit, "read", honest)
    assert isinstance(kept.reader, CachingReader)
    assert_same(all_of(kept), whole)


def test_a_pipe_among_the_files_is_refused_by_name_and_not_waited_for(root, tmp_path, kind) -> None:
    split = spoil(root, tmp_path, 0, total=8)
    path = Path(split.path(3))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadImageError, match=f"{path.name}: is no regular file"):
        all_of(make(split, **kind))
