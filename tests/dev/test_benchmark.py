"""scripts/dev/benchmark.py: verdicts follow from the rates, and most commands run on a little data."""

import sys
import types
from pathlib import Path

import benchmark_peers
import numpy as np
import pytest
import torch
from benchmark import main
from benchmark_loader import decodable, work_of
from benchmark_peers import image_paths, peers
from benchmark_report import print_table, take_turns
from benchmark_step import Settings, verdict

from imgcls.data.decoding import native
from imgcls.data.sets import draw_noise, make_pack, open_folder

SETTINGS = Settings(
    device="cuda",
    native=True,
    data="files",
    num_threads=16,
    cores=16,
    torch_threads=16,
    precision="torch.bfloat16",
    channels_last=True,
    compiled=True,
    parts=1,
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch, cache):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "changes, advice",
    [
        ({"native": False, "num_threads": 2}, "build the native decoder"),
        ({"num_threads": 2}, "data.num_threads=16"),
        ({}, "data=pack"),
        ({"data": "pack"}, "more cores"),
        ({"data": "array"}, r"batch_size \(larger\)"),
    ],
)
def test_a_run_short_of_data_says_by_how_much_and_what_to_change(changes, advice):
    line = verdict(1000, 2500, 990, SETTINGS._replace(**changes))
    assert line.startswith("bound by data: the step could do 2.50 times what is decoded. Change: ")
    assert advice.replace("\\", "") in line


@pytest.mark.parametrize(
    "changes, advice",
    [
        ({"parts": 4, "precision": "fp32"}, "microbatch=null, if memory allows; a batch is computed in 4 parts"),
        ({"channels_last": False, "precision": "fp32"}, "channels_last=true"),
        ({"precision": "fp32", "compiled": False}, "precision=bf16"),
        ({"compiled": False}, "compile=true"),
        ({}, "a larger batch_size"),
    ],
)
def test_a_run_short_of_compute_says_by_how_much_and_what_to_change(changes, advice):
    line = verdict(3000, 1000, 990, SETTINGS._replace(**changes))
    assert line.startswith("bound by compute: the data would do for 3.00 times the step. Change: ")
    assert advice in line


def test_on_a_cpu_data_and_step_share_the_cores_and_the_larger_share_is_named():
    on_cpu = SETTINGS._replace(device="cpu", torch_threads=1, precision="fp32")
    line = verdict(900, 100, 85, on_cpu)
    assert "90 images/s is what one core after the other gives; the step takes most, data 10% of it" in line
    assert "OMP_NUM_THREADS=16" in line
    assert "the data takes most, data 75% of it" in verdict(100, 300, 75, on_cpu)
    assert verdict(900, 100, 99, on_cpu).startswith("bound by compute")


def test_jobs_take_turns_in_every_round_and_the_first_only_warms_up():
    calls = []
    jobs = {name: [lambda name=name, piece=piece: calls.append((name, piece)) for piece in (0, 1)] for name in "ab"}
    seconds = take_turns(jobs, rounds=2)
    assert [len(seconds[name]) for name in "ab"] == [2, 2]
    assert sorted(calls) == sorted([(name, piece) for name in "ab" for piece in (0, 1)] * 3)
    assert {calls[0][0], calls[1][0]} == {"a", "b"}


def test_a_table_shows_medians_and_ratios_to_its_first_row(capsys):
    print_table({"usual": [0.02, 0.01, 0.03], "ours": [0.01, 0.01, 0.005]})
    usual, ours = capsys.readouterr().out.splitlines()
    assert "50 images/s    1.00  (1.00 to 1.00)" in usual
    assert "100 images/s    2.00  (1.00 to 6.00)" in ours


def test_every_pipeline_shows_the_same_part_of_the_image(tiny_folder):
    paths = image_paths(str(tiny_folder))[:10]
    (work,) = work_of([Path(path).read_bytes() for path in paths], 32)
    found = {peer.name: peer for peer in peers(32)[0]}
    out = {name: np.empty((10, 32, 32, 3), np.uint8) for name in found}
    for name, peer in found.items():
        shown = peer.run(work, out[name])
        assert shown is None or shown.shape == (10, 3, 32, 32)
    boxed = [name for name in found if not name.startswith("torchvision")]
    assert "imgcls, Pillow" in boxed
    for name in boxed:
        assert np.abs(out[name].astype(float) - out["imgcls, Pillow"]).mean() < 12, name


@pytest.mark.parametrize("packed", [False, True])
def test_loader_compares_every_pipeline_that_is_here(tiny_folder, tmp_path, capsys, packed):
    more = []
    if packed:
        for kind in ("lossy", *(["lossless"] if native.available() else [])):
            make_pack(open_folder(str(tiny_folder)), tmp_path / kind, lossless=kind == "lossless")
            more += ["--pack", str(tmp_path / kind)]
    sizes = ["--image-size", "16", "--rounds", "1", "--threads", "1", "--images", "20"]
    main(["loader", "--data", str(tiny_folder), *sizes, *more])
    shown = capsys.readouterr().out
    for words in ("torchvision: Pillow, float", "imgcls, Pillow", "DataLoader, 1 workers", "memory over 10 epochs"):
        assert words in shown
    if native.available():
        assert "entropy decoding" in shown
    assert ("from the lossy pack" in shown) == packed
    if packed and native.available():
        assert "bytes; 20 of 20 crops the same to the bit" in shown


def test_a_broken_file_is_left_out_by_name(tiny_folder, tmp_path, capsys):
    (whole,) = tiny_folder.glob("train/red/07.JPEG")
    (tmp_path / "whole.JPEG").write_bytes(whole.read_bytes())
    (tmp_path / "broken.JPEG").write_bytes(whole.read_bytes()[:-200])
    paths = image_paths(str(tmp_path))
    assert decodable(paths) == ([whole.read_bytes()], [str(tmp_path / "whole.JPEG")])
    assert f"left out: {tmp_path}/broken.JPEG: cannot be decoded: " in capsys.readouterr().out


def test_cv2_runs_also_where_libturbojpeg_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(setNumThreads=lambda number: None))
    monkeypatch.setattr(benchmark_peers.ctypes.util, "find_library", lambda name: None)
    found, missing = peers(32)
    assert "cv2, INTER_AREA" in [peer.name for peer in found]
    assert missing[0].startswith("FFCV's algorithm: no libturbojpeg on this machine")


def test_step_needs_no_data_and_ends_with_what_to_change(capsys):
    words = ["model=lenet5", "data=imagenet", "image_size=32", "batch_size=8", "device=cpu"]
    main(["step", *words, "--seconds", "0.01", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "LeNet5: batch_size=8, image_size=32" in lines[1]
    assert lines[-1].startswith("Change: ")


def test_train_ends_with_a_verdict(tiny_folder, capsys):
    words = ["model=lenet5", "data=folder", f"data.root={tiny_folder}", "image_size=32", "batch_size=10", "device=cpu"]
    main(["train", *words, "data.num_threads=1", "--seconds", "0.05", "--rounds", "1"])
    assert "Change: " in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_evaluate_sets_the_whole_test_beside_torchvisions(tiny_folder, capsys):
    main(["evaluate", "--data", str(tiny_folder / "val"), "--threads", "1", "--rounds", "1"])
    head, usual, ours = capsys.readouterr().out.splitlines()
    assert "resnet18, centre crop of 224" in head
    assert usual.split()[:2] == ["torchvision's", "reference"]
    assert ours.split()[0] == "imgcls"


@pytest.mark.slow
def test_many_runs_are_compared_and_reported_and_a_sweep_stands_beside_its_runs(capsys):
    main(["results", "--runs", "10", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert all(f"compare.py, 10 runs, {form}" in printed for form in ("text", "csv", "markdown", "json"))
    assert "report.py, 1 runs" in printed
    main(["sweep", "--jobs", "1", "--rounds", "1"])
    assert "added to a job by the sweep" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/1.jpg").write_bytes(b"no image")
    (tmp_path / "none").mkdir()
    for words, expected in [
        (["loader", "--data", str(tmp_path / "none")], "holds no .jpg or .jpeg file; name a folder of photos"),
        (["loader", "--data", str(tmp_path / "bad")], "none of the images that were taken can be decoded"),
        (["loader", "--data", str(tmp_path / "bad"), "--images", "0"], "--images 0; use 1 or more"),
        (["step", "model=vgg1"], "there is no such model"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert expected in capsys.readouterr().err


def test_noise_has_every_class_and_the_size_asked_for():
    images = draw_noise(image_size=8, num_images=10, num_classes=4, channels=1)
    assert len(images.classes) == 4
    assert images.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert images.train.images.shape == (10, 8, 8, 1)
