"""A plan's numbers follow from the network, the recipe and the table of GPUs."""

import csv

import pytest

from imgcls.commands.plan import plan
from imgcls.config import Config, compose
from imgcls.models import kept_bytes, outline_model
from imgcls.planning import hardware_names, make_plan, read_hardware, scaling
from imgcls.planning.hardware import RESNET50_MACS, TABLE, training_flops


def resnet18(*words: str) -> Config:
    return compose(["model=resnet18", "data=imagenet", *words])


def test_each_gpu_has_its_figures_and_the_source_of_its_rate_and_price() -> None:
    rows = {row["name"]: row for row in csv.DictReader(TABLE.open())}
    for name in hardware_names():
        gpu = read_hardware(name)
        assert 0.05 < gpu.mfu < 0.6, name
        assert gpu.mfu_source.startswith("published" if rows[name]["resnet50_images_s"] else "estimated")
        assert (gpu.usd_per_hour is None) == (gpu.price_source == "")
    a100 = read_hardware("a100")
    # The published rate is what its use of the peak gives back.
    assert a100.tflops * 1e12 * a100.mfu / training_flops(RESNET50_MACS) == pytest.approx(2470)


def test_the_hours_are_the_images_over_the_rate_and_validation_costs_a_third() -> None:
    config = resnet18("epochs=2", "batch_size=100", "ema_decay=0")
    made = make_plan(config, read_hardware("a100"), num_classes=1000, num_train=1050, num_val=300, mfu=0.5)
    assert (made.parameters, made.steps, made.num_images, made.num_val) == (11_689_512, 10, 2000, 600)
    assert made.images_s == pytest.approx(0.5 * 312e12 / (6 * 1_814_073_344))
    assert made.seconds == pytest.approx((2000 + 600 / 3) / made.images_s)
    assert made.state_bytes == 11_689_512 * 4 * 3  # weights, gradients, momentum


def test_adam_the_average_and_max_steps_count() -> None:
    config = resnet18("optimizer=adamw", "ema_decay=0.9", "epochs=9", "max_steps=15", "batch_size=100")
    made = make_plan(config, read_hardware("a100"), num_classes=1000, num_train=1000, num_val=300)
    assert made.state_bytes == 11_689_512 * 4 * 5
    assert (made.num_images, made.num_val) == (1500, 1200)  # each of two validations of both weights


def test_the_maps_that_are_kept_grow_with_the_pixels_and_hold_every_convolutions_input() -> None:
    network = outline_model(resnet18(), num_classes=1000)
    small, large = (kept_bytes(network, channels=3, size=(side, side)) for side in (112, 224))
    assert large / small == pytest.approx(4, rel=0.02)
    assert large > 4 * 2 * (112 * 112 * 64)  # of the first convolution's output and of its batch norm's


def test_gpus_wait_for_a_slow_link_alone_and_the_limit_is_where_the_backward_pass_is_as_long() -> None:
    made = make_plan(resnet18(), read_hardware("a100"), num_classes=1000, num_train=100_000, num_val=0)
    one, fast = scaling(made, 1), scaling(made, 8)
    assert (one.efficiency, one.all_reduce, fast.efficiency, fast.exposed) == (1, 0, 1, 0)
    assert fast.seconds == pytest.approx(one.seconds / 8)
    assert fast.all_reduce == pytest.approx(2 * 7 / 8 * 4 * 11_689_512 / 300e9)
    at_limit = scaling(made, 8, link_gb_s=fast.least_link)
    assert at_limit.all_reduce == pytest.approx(made.step_seconds / 8 * 2 / 3)
    assert at_limit.exposed == pytest.approx(0, abs=1e-9)
    slow = scaling(made, 8, link_gb_s=fast.least_link / 4, usd_per_hour=2)
    assert slow.efficiency == pytest.approx(1 / (1 + 3 * 2 / 3))
    assert slow.usd == pytest.approx(2 * slow.gpu_hours)
    assert slow.kwh == pytest.approx(0.4 * slow.gpu_hours)


def test_the_command_prints_memory_hours_money_and_the_link(capsys: pytest.CaptureFixture[str]) -> None:
    plan(["model=resnet18", "data=imagenet", "--hardware", "rtx4090", "gpus=3", "link_gb_s=0.1", "epochs=1"])
    text = capsys.readouterr().out
    assert "resnet18: 11,689,512 parameters, 1.81 GMACs an image at 224 px" in text
    assert "estimated: the published rate of A100 SXM 80 GB" in text
    assert [line.split()[0] for line in text.splitlines() if line.endswith(" %")] == ["1", "2", "3"]
    assert "On 3 GPUs at 0.1 GB/s a ring all-reduce of 47 MB" in text
    assert "(compression) would help" in text


@pytest.mark.parametrize(
    "words, said",
    [
        (["hardware=h101"], r"hardware=h101 is none of .*did you mean h100\?"),
        (["gpus=0"], "gpus=0 must be above 0"),
        (["mfu=30"], "mfu=30.0 must be at most 1"),
        (["epoks=3"], r"epoks.*did you mean epochs\?"),
        (["gpus=x"], "gpus=x must be a whole number"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(["model=resnet18", "data=imagenet", *words])
