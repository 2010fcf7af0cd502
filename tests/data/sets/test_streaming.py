"""Streamed shards: each image once an epoch whoever reads, within the budget, the same after a break."""

import functools
import http.server
import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.config import compose
from imgcls.data.augment import Whole
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import Loader
from imgcls.data.sets import ImageSet, StreamedSplit, open_image_set, stream_folder
from imgcls.data.sets.remote import RemoteFile, fetch, look_up
from imgcls.data.sets.stream_folder import StreamFolder
from imgcls.doctor.findings import Status
from imgcls.doctor.images import look_at_images

pytestmark = pytest.mark.usefixtures("cache")
fsspec = pytest.importorskip("fsspec")

NUM_SHARDS, IN_SHARD, SHARD_BYTES = 9, 6, 20480
BUDGET = 6 * SHARD_BYTES  # windows of two shards
BATCH = 8
NUM_BATCHES = NUM_SHARDS * IN_SHARD // BATCH


def shard(first: int, num: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(first, first + num):
            png = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(png, "PNG")
            for ending, data in (("png", png.getvalue()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def url() -> str:
    """Nine training shards of six images, twice the budget and more, and one for validation."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for number in range(NUM_SHARDS):
        data = shard(number * IN_SHARD, IN_SHARD)
        assert len(data) == SHARD_BYTES
        memory.pipe(f"/bucket/x-train-{number:04}.tar", data)
    memory.pipe("/bucket/x-val-0000.tar", shard(100, 2))
    return "memory://bucket"


def opened(url: str, *words: str, budget: int = BUDGET) -> ImageSet:
    return open_image_set(compose(["data=webdataset", f"data.root={url}", f"data.stream_gb={budget / 1e9}", *words]))


def streamed(images: ImageSet) -> StreamedSplit:
    assert isinstance(images.train, StreamedSplit)
    return images.train


def loader_of(images: ImageSet, **changes) -> Loader:
    settings = {"image_size": 4, "batch_size": BATCH, "seed": 3, "shuffle": True, "num_threads": 2, "prefetch": 2}
    return Loader(images.train, Whole(), **(settings | changes))


def read(loader: Loader, epoch: int = 0, start: int = 0) -> Iterator[np.ndarray]:
    """Yield the indices of each batch, whose pixels are checked."""
    with closing(loader.epoch(epoch, start=start)) as batches:
        for batch in batches:
            numbers = [int(loader.split.path(index)[-7:-4]) for index in batch.indices.tolist()]
            assert batch.images[:, 0, 0, 0].tolist() == numbers
            yield batch.indices.numpy().copy()


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    """The shards that are fetched for training, in their order; what is in the folder meanwhile is in the budget."""
    names, lock, real = [], threading.Lock(), stream_folder.fetch

    def noted(file: RemoteFile, place: Path, *, is_stopped: Callable[[], bool]) -> None:
        with lock:
            names.append(file.url[-8:-4])
        real(file, place, is_stopped=is_stopped)
        assert sum(one.stat().st_size for one in place.parent.glob("*.tar")) <= BUDGET

    monkeypatch.setattr(stream_folder, "fetch", noted)
    return names


def test_each_image_comes_once_in_an_order_that_seed_and_epoch_give(url, fetched, cache):
    images = opened(url)
    split, loader = streamed(images), loader_of(images)
    orders = []
    for epoch in (0, 1):
        batches = list(read(loader, epoch))
        orders.append(np.concatenate(batches))
        assert len(np.unique(orders[-1])) == NUM_BATCHES * BATCH
        assert np.array_equal(orders[-1], split.permutation(3, epoch)[: NUM_BATCHES * BATCH])
        assert sorted(split.permutation(3, epoch)) == list(range(NUM_SHARDS * IN_SHARD))
    assert not np.array_equal(*orders)
    first = split.index.files[orders[0][: 2 * IN_SHARD]]
    assert len(set(first)) == 2  # a window of two shards, shuffled as a whole
    assert (np.diff(first) != 0).sum() > 2
    on_disk = sum(file.stat().st_size for file in cache.glob("streams/*/*/*.tar"))
    assert on_disk <= BUDGET < NUM_SHARDS * SHARD_BYTES
    assert max(Counter(fetched).values()) <= 3  # once an epoch, and what the next epoch begins with


def test_a_run_that_is_broken_off_goes_on_with_the_same_batches_and_later_shards_alone(url, fetched, cache):
    unbroken = list(read(loader_of(opened(url))))
    half_way = loader_of(opened(url)).epoch(0)
    for batch in unbroken[:4]:
        assert np.array_equal(next(half_way).indices, batch)
    half_way.close()
    fetched.clear()
    images = opened(url)
    windows = streamed(images).windows(3, 0)
    done = {number for window in windows[:2] for number in window.tolist()}  # 24 of the 32 images
    # Takes over what another run left, but for one whose locks are still held: Python may not have let go of it yet.
    streamed(images).join("run", 0)
    left_behind = set()
    for file in cache.glob("streams/*/run/*.tar"):
        if int(file.stem) in done:
            file.unlink()
        else:
            left_behind.add(int(file.stem))
    # The run's last epoch: what another one begins with would come among the last of this one, in any order.
    assert np.array_equal(list(read(loader_of(images, num_epochs=1), start=4)), unbroken[4:])
    numbers = [int(name) for name in fetched]
    assert len(set(numbers)) == len(numbers)
    # The last window is one shard, of which no whole batch is left: it comes, or the epoch is over before.
    needed = set(streamed(images).index.files[np.concatenate(unbroken[4:])].tolist())
    assert needed - left_behind <= set(numbers) <= {*range(NUM_SHARDS)} - done - left_behind


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_the_last_epoch_fetches_no_shards_for_another(num_epochs, url, fetched):
    def is_again() -> bool:
        return max(Counter(fetched).values()) > 1

    for number, _ in enumerate(read(loader_of(opened(url), num_epochs=num_epochs)), start=1):
        # In the last window there is room for others.
        until = time.monotonic() + (60 if num_epochs == 2 else 10 * stream_folder.PAUSE)
        while number == NUM_BATCHES and not is_again() and time.monotonic() < until:
            time.sleep(stream_folder.PAUSE)
    assert is_again() == (num_epochs == 2)


def test_doctor_measures_more_epochs_than_the_run_has(url):
    loader = loader_of(opened(url), num_epochs=1)
    assert len(list(read(loader, 3))) == NUM_BATCHES


def test_two_ranks_of_a_machine_read_what_one_does_and_fetch_each_shard_once(url, fetched):
    alone = list(read(loader_of(opened(url))))
    fetched.clear()
    ranks = []
    for rank in (0, 1):
        images = opened(url)
        streamed(images).join("run", rank)
        ranks.append(read(loader_of(images, rank=rank, world_size=2)))
    both = [np.concatenate(parts) for parts in _in_step(ranks)]
    assert np.array_equal(both, alone)
    assert max(Counter(fetched).values()) <= 2  # the next epoch's beginning comes again


def _in_step(ranks: list[Iterator[np.ndarray]]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the batches of several ranks, each of which waits for the others as in training."""
    got: list[list[np.ndarray]] = [[] for _ in ranks]
    barrier = threading.Barrier(len(ranks), timeout=60)

    def run(rank: int) -> None:
        for batch in ranks[rank]:
            got[rank].append(batch)
            barrier.wait()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield from zip(*got, strict=True)


def test_a_shard_that_cannot_be_fetched_ends_the_epoch_with_its_name(url, monkeypatch):
    images = opened(url)
    loader = loader_of(images)
    last = streamed(images).windows(3, 0)[2][-1]
    fsspec.filesystem("memory").rm(f"/bucket/x-train-{last:04}.tar")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    got = []
    with pytest.raises(BadImageError, match=rf"x-train-{last:04}\.tar cannot be fetched: .*; the same command goes on"):
        got.extend(read(loader))
    assert got  # those before came
    loader.close()


def test_what_a_killed_run_left_is_taken_over_and_the_rest_deleted(url, fetched, cache):
    images = opened(url)
    files, budget = streamed(images).shards
    needed = streamed(images).windows(3, 0)[0].tolist()
    left = [StreamFolder(files, budget, run=f"killed{number}", rank=0) for number in (0, 1)]
    for folder in left:
        for number in needed:
            folder.place(number).write_bytes(fsspec.filesystem("memory").cat(f"/bucket/x-train-{number:04}.tar"))
        (folder.path / f".1.{needed[0]:06}.tar.partial").write_bytes(b"half")
        folder._alive.release()  # as its death does
    fetched.clear()
    assert len(list(read(loader_of(images)))) == NUM_BATCHES
    assert fetched[0] not in {f"{number:04}" for number in needed}
    assert len(list(cache.glob("streams/*/*/"))) == 1
    assert not list(cache.glob("streams/*/*/.*partial"))


def test_a_folder_that_a_run_uses_is_left_alone(url, cache):
    files, budget = streamed(opened(url)).shards
    alive = StreamFolder(files, budget, run="alive", rank=0)
    StreamFolder(files, budget, run="other", rank=0)
    assert alive.path.is_dir()


def test_the_index_is_built_once_and_the_shards_are_not_kept(url, cache, monkeypatch):
    first = opened(url).identity()
    assert not list(cache.glob("streams/**/*.tar"))
    monkeypatch.setattr("imgcls.data.sets.streaming.fetch", None)
    assert opened(url).identity() == first


def test_images_are_read_from_the_url_where_their_shard_is_not_here(url):
    train = opened(url).train
    for index in (0, 30):
        assert train.pixels(index, 3)[0, 0, 0] == int(train.path(index)[-7:-4])


def test_another_image_of_the_same_shard_comes_instead_of_a_bad_one(url):
    data = bytearray(shard(0, IN_SHARD))
    start = data.index(b"\x89PNG")
    data[start : start + 40] = bytes(40)
    fsspec.filesystem("memory").pipe("/bucket/x-train-0000.tar", bytes(data))
    images = opened(url)
    order = np.concatenate(list(read(loader_of(images, on_bad_image="skip", max_bad_share=0.5))))
    asked = streamed(images).permutation(3, 0)[: len(order)]
    changed = np.flatnonzero(order != asked)
    assert len(changed) == 1
    files = streamed(images).index.files
    assert files[order[changed[0]]] == files[asked[changed[0]]] == 0


@pytest.mark.parametrize(
    "words, budget, message",
    [
        (
            [],
            2 * SHARD_BYTES,
            r"data\.stream_gb=4\.096e-05 is less than 3 of the largest shard, .* use 6\.15e-05 or more",
        ),
        (["sampler=balanced"], BUDGET, r"data\.stream_gb=.*sampler=balanced draws from all images"),
        (["data.val_share=0.1"], BUDGET, r"data\.stream_gb=.*data\.val_share and data\.fold hold images"),
        (["data.memorise=4"], BUDGET, r"data\.stream_gb=.*data\.memorise=4"),
        (["data.cache_gb=1"], BUDGET, r"data\.stream_gb=.*data\.cache_gb=1 keeps"),
        (["data=parquet"], BUDGET, r"data\.stream_gb=.* is for shards \(\.tar\) at a URL, not for data=parquet"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(url, words, budget, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        opened(url, *words, budget=budget)


def test_shards_of_this_machine_and_other_forms_are_refused(url, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.tar").write_bytes(shard(0, 2))
    with pytest.raises(ValueError, match=r"data\.stream_gb=.* are on this machine"):
        opened(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.stream_gb=.* is for shards \(\.tar\) at a URL, which data\.root="):
        opened(str(tmp_path / "nothing"), "data=imagenet")


def test_a_window_with_fewer_images_than_a_batch_is_refused_with_what_works(url):
    with pytest.raises(ValueError, match=r"may hold 6 images, fewer than batch_size=8; use 0\.000123 or more"):
        loader_of(opened(url, budget=3 * SHARD_BYTES))


def test_a_large_shard_comes_from_a_server_that_gives_out_no_parts(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "0.tar").write_bytes(bytes(6_000_000))  # more than fsspec asks for at once
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            [file] = look_up([f"http://127.0.0.1:{server.server_port}/0.tar"])
            fetch(file, tmp_path / "copy.tar")
        finally:
            server.shutdown()
    assert (tmp_path / "copy.tar").stat().st_size == file.size == 6_000_000


def test_doctor_notes_that_a_server_lets_no_images_be_sampled(url, monkeypatch):
    def refuse(url: str, start: int, size: int) -> bytes:
        raise OSError(f"{url} cannot be read in parts: no")

    monkeypatch.setattr("imgcls.data.sets.streaming.read_range", refuse)
    config = compose(["data=webdataset", f"data.root={url}", f"data.stream_gb={BUDGET / 1e9}"])
    findings = list(look_at_images(config, open_image_set(config)))
    assert any("no sample of the training images: cannot be read: memory" in finding.text for finding in findings)
    assert not [finding.text for finding in findings if finding.status == Status.FAIL]


def test_one_epoch_is_read_at_a_time(url):
    loader = loader_of(opened(url))
    with closing(loader.epoch(0)) as batches:
        next(batches)
        with pytest.raises(RuntimeError, match="one epoch at a time"):
            next(loader.epoch(1))
