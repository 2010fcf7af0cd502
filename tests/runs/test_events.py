"""TensorBoard, metrics.csv and the terminal show what they should."""

import csv
import io
import logging
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imgcls.metrics import Scores
from imgcls.runs import Events, Progress, columns_of, image_grid
from imgcls.runs.loggers import TensorBoard

TRAIN = Scores(loss=1.5, top1=40.0, top5=80.0, num_images=100)
VAL = Scores(loss=1.25, top1=50.0, top5=None, num_images=20)


def open_events(path: Path, position: dict[str, int] | None = None) -> Events:
    return Events(path, loggers={"tensorboard": TensorBoard()}, enabled=True, position=position)


def test_tensorboard_holds_scores_images_filters_and_hyperparameters(tmp_path: Path) -> None:
    writer = open_events(tmp_path)
    writer.write(epoch=1, step=10, lr=0.1, train_epoch=TRAIN, val=VAL)
    writer.scalars(10, {"usage/images_per_second": 123.0})
    writer.images("visual/first_batch", torch.randn(20, 3, 8, 8), 0)
    writer.filters(torch.randn(9, 3, 5, 5), 10)
    config = {"seed": 1, "model._target_": "x", "optimizer.betas": [1, 2], "name": "a|b"}
    writer.describe(config, model="lenet5", command="python train.py seed=1")
    writer.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert {"train_epoch/loss", "train_epoch/top5", "train/lr", "eval/loss", "eval/top1"} <= set(read.Tags()["scalars"])
    assert "eval/top5" not in read.Tags()["scalars"]
    assert set(read.Tags()["images"]) == {"visual/first_batch", "visual/conv1"}
    assert not any(tag.startswith("final") for tag in read.Tags()["scalars"])
    assert "_hparams_/session_start_info" in read.summary_metadata


def test_tensorboard_has_config_and_command_as_texts_and_training_beside_validation(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2

    writer = open_events(tmp_path)
    writer.describe({"seed": 1, "name": "a|b"}, model="lenet5", command="python train.py seed=1")
    writer.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    texts = {
        tag: read.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode() for tag in ("config", "command")
    }
    assert texts["config"].splitlines() == ["| setting | value |", "|---|---|", "| seed | 1 |", "| name | a\\|b |"]
    assert texts["command"] == "    python train.py seed=1"
    layout = layout_pb2.Layout()
    layout.ParseFromString(read.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["loss"][:3] == ["train/loss$", "train_epoch/loss$", "eval/loss$"]


def test_tensorboard_shows_the_settings_that_differ_first_and_model_recipe_optimizer_and_lr_before_others(
    tmp_path: Path,
) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    config = {"optimizer._target_": "torch.optim.SGD", "recipe.name": "lenet", "batch_size": 8, "seed": 0}
    for name, model, lr, clip in (("a", "lenet5", 0.1, None), ("b", "resnet18", 0.2, 1.0)):
        (tmp_path / name).mkdir()
        writer = open_events(tmp_path / name)
        writer.write(epoch=1, step=10, lr=0.1, train_epoch=TRAIN, val=VAL)
        writer.describe(config | {"optimizer.lr": lr, "clip_grad_norm": clip}, model=model, command="train")
        writer.close(finished=name == "a")
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(tmp_path))))
    request = RequestContext()
    experiment = context.experiment_from_metadata(
        request, "", True, context.hparams_metadata(request, ""), context.hparams_from_data_provider(request, "", 0)
    )
    names = [info.name for info in experiment.hparam_infos]
    assert names == ["LR", "Model", "Run", "clip_grad_norm", "Optimizer", "Recipe", "batch_size", "seed"]
    assert [info.differs for info in experiment.hparam_infos[:5]] == [True, True, True, True, False]
    assert [info.name.tag for info in experiment.metric_infos][:2] == ["eval/loss", "eval/top1"]


def test_metrics_csv_has_a_row_a_report_and_nothing_of_time(tmp_path: Path) -> None:
    writer = open_events(tmp_path)
    writer.write(epoch=1, step=5, lr=0.1, train=TRAIN)
    writer.write(epoch=1, step=10, lr=0.1, train_epoch=TRAIN, val=VAL)
    writer.close()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(columns_of())
    numbers = [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(lines)]
    train = {"loss": 1.5, "top1": 40.0, "top5": 80.0}
    assert numbers == [
        {"epoch": 1, "step": 5, "lr": 0.1, **{f"train/{name}": value for name, value in train.items()}},
        {
            **{"epoch": 1, "step": 10, "lr": 0.1, "val/loss": 1.25, "val/top1": 50.0},
            **{f"train_epoch/{name}": value for name, value in train.items()},
        },
    ]


def test_the_mean_of_an_epoch_is_no_point_on_the_curve_of_the_steps(tmp_path: Path) -> None:
    writer = open_events(tmp_path)
    writer.write(epoch=1, step=5, lr=0.1, train=TRAIN)
    writer.write(epoch=1, step=10, lr=0.1, train_epoch=TRAIN, val=VAL)
    writer.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [5]
    assert [event.step for event in read.Scalars("train_epoch/loss")] == [10]


def test_a_metrics_csv_of_an_earlier_version_keeps_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,lr,train/loss,val/top1\n1,5,0.1,2.0,\n")
    writer = open_events(tmp_path, {"metrics.csv": file.stat().st_size})
    writer.write(epoch=1, step=10, lr=0.1, train_epoch=TRAIN, val=VAL)
    writer.close()
    assert file.read_text().splitlines()[2] == "1,10,0.1,,50.0"


def test_what_was_written_after_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    writer = open_events(tmp_path)
    writer.write(epoch=1, step=5, lr=0.1, train=TRAIN)
    position = writer.position()
    writer.write(epoch=1, step=10, lr=0.1, train=TRAIN)
    writer.close()
    writer = open_events(tmp_path, position)
    writer.write(epoch=1, step=10, lr=0.2, train=TRAIN)
    writer.close()
    steps = [
        (event.step, round(event.value, 3)) for event in EventAccumulator(str(tmp_path)).Reload().Scalars("train/lr")
    ]
    assert steps == [(5, 0.1), (10, 0.2)]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


def test_an_event_file_sorts_after_those_that_are_there(tmp_path: Path) -> None:
    # TensorBoard reads them by name: seconds, process, count. Without a new second, count 10 comes before count 9.
    now = int(time.time())
    first = tmp_path / f"events.out.tfevents.{now:010d}.host.9.9"
    first.write_bytes(b"")
    open_events(tmp_path, {first.name: 1}).close()
    (other,) = {path.name for path in tmp_path.glob("events*")} - {first.name}
    assert int(other.split(".")[3]) > now


def test_a_rank_beside_the_main_one_writes_nothing(tmp_path: Path) -> None:
    writer = Events(tmp_path, loggers={"tensorboard": TensorBoard()}, enabled=False, position=None)
    writer.write(epoch=1, step=5, lr=0.1, train=TRAIN)
    writer.images("x", torch.zeros(1, 3, 4, 4), 0)
    assert writer.position() == {}
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_filters_are_no_picture_gives_none(tmp_path: Path) -> None:
    writer = open_events(tmp_path)
    writer.filters(None, 1)
    writer.close()
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == []


def test_a_grid_stretches_each_image_to_its_own_range() -> None:
    picture = image_grid(torch.stack([torch.linspace(-5, 5, 48).view(3, 4, 4), torch.zeros(3, 4, 4)]))
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 2 * 6 + 2, 6 + 2)  # one column of two, with gaps of 2 pixels
    assert picture[:, 2, 2].tolist() == [0, 86, 173]
    assert picture[2, 5, 5] == 255
    assert (picture[:, 8:12, 2:6] == 0).all()
    assert (picture[:, :2] == 255).all()


def test_without_a_terminal_there_is_a_plain_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(
        "epoch 1/2 train", total=4, num_images=10, line_seconds=-1, seconds_after=lambda seconds: 36_000
    ) as progress:
        progress.show(TRAIN, lr=0.1)
        progress.advance()
    assert "epoch 1/2 train  1/4  loss 1.500  top-1 40.0 %  lr 0.1  " in caplog.text
    assert " left  run 10:0" in caplog.text


def test_on_a_terminal_there_is_a_bar_with_loss_accuracy_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("epoch 1/2 train", total=2, num_images=10) as progress:
        progress.show(TRAIN)
        progress.advance()
        progress.advance()
        progress._bar.refresh()
    for word in ("epoch 1/2 train", "100%", "2/2", "loss 1.500", "top-1 40.0 %", " left"):
        assert word in terminal.getvalue()


@pytest.mark.parametrize(
    "columns, words",
    [
        (119, ["|###", "1230/5005", "lr 0.00012", "img/s", "left", "run 3:"]),
        (79, ["lr 0.00012", "left", "run 3:"]),
        (40, ["epoch 100/120 train loss 1.500"]),
        (10, ["epoch 100/"]),
    ],
)
def test_the_bar_leaves_out_what_has_no_room(columns: int, words: list[str]) -> None:
    with Progress("epoch 100/120 train", total=5005, num_images=256, seconds_after=lambda seconds: 10_000) as progress:
        progress.done = 1230
        progress._started -= 1000
        progress.show(TRAIN, lr=0.000123)
        line = progress.line(columns)
    assert len(line) <= columns
    assert all(word in line for word in words), line
    assert ("|" in line) == (columns > 100)  # a bar of eight characters or more, or none


def test_scores_are_due_at_once_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    with Progress("epoch 1/2 train", total=4, num_images=10) as progress:
        assert progress.due
        progress.show(TRAIN)
        assert not progress.due
        monkeypatch.setattr("imgcls.runs.progress.SHOW_EVERY_SECONDS", 0)
        assert progress.due
