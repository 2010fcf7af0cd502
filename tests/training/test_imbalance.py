"""Uneven classes: weights in the loss, a sampler that evens them out, a metric and a warning that are not fooled."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from imgcls.config import compose
from imgcls.data.augment import RandomResizedCrop, Whole
from imgcls.data.augment.keyed_random import balanced_order
from imgcls.data.loading import Loader
from imgcls.data.sets import ArraySplit
from imgcls.errors import ConfigError, RunError
from imgcls.metrics import Meter, Scores
from imgcls.runs import results_table
from imgcls.training import ClassificationLoss

from .helpers import Killed, Make, Train, kill_at_step, same


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """38 training images of class a and 2 of b; 8 of each to validate on."""
    for part, counts in (("train", (38, 2)), ("val", (8, 8))):
        for name, count in zip("ab", counts, strict=True):
            (tmp_path / "uneven" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "uneven" / part / name / f"{number:02}.png")
    return tmp_path / "uneven"


def test_balanced_accuracy_is_the_mean_of_the_classes_recalls() -> None:
    logits = torch.eye(3)[[0] * 90 + [0] * 5 + [1] * 5]
    meter = Meter(torch.device("cpu"), 3)
    labels = torch.tensor([0] * 90 + [1] * 10)
    for part in (slice(0, 30), slice(30, 100)):
        meter.update(torch.tensor(1.0), logits[part], labels[part])
    scores = meter.scores(3)
    assert scores.top1 == pytest.approx(95)
    assert scores.balanced == pytest.approx(75)  # of the two classes that have images
    assert "balanced accuracy  75.00 %" in str(scores)
    assert "balanced" not in str(Scores(10, loss=1.0, top1=50.0, balanced=50.0))
    assert Meter(torch.device("cpu")).scores(3).balanced is None


def test_class_weights_multiply_each_images_loss_and_parts_add_up() -> None:
    logits, targets = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
    weights = torch.tensor([0.5, 1.0, 4.0])
    loss = ClassificationLoss(class_weights=weights, label_smoothing=0.1)
    each = F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none") * weights[targets]
    assert torch.allclose(loss(logits, targets).loss, each.mean())
    parts = sum(loss(logits[part], targets[part]).loss * 0.5 for part in (slice(0, 3), slice(3, 6)))
    assert torch.allclose(loss(logits, targets).loss, parts)
    plain = ClassificationLoss(class_weights=weights)
    assert torch.allclose(plain(logits, targets).loss, plain(logits, F.one_hot(targets, 3).float()).loss)


def test_balanced_weights_give_each_class_the_same_weight_and_a_mean_of_1(tiny_config, train, uneven):
    seen: list[torch.Tensor] = []
    train(
        tiny_config(f"data.root={uneven}", "class_weights=balanced", "max_steps=1"),
        before=lambda trainer: seen.append(trainer.loss.class_weights),
    )
    assert seen[0].tolist() == pytest.approx([40 / 2 / 38, 40 / 2 / 2])
    with pytest.raises(ConfigError, match=r"class_weights has 3 numbers, and the data has 2 classes.* order a, b"):
        train(tiny_config(f"data.root={uneven}", "class_weights=[1,2,3]"), "other")


@pytest.mark.parametrize("value", ["auto", "3", "[1,-2]", "[1,x]", "true"])
def test_other_class_weights_are_refused_at_once(value):
    with pytest.raises(ConfigError, match=r"class_weights=.* is none of balanced, null, or a list"):
        compose([f"class_weights={value}"])


@pytest.mark.parametrize("num", [30, 31, 100, 7])
def test_a_balanced_order_has_even_classes_and_each_of_their_samples_evenly(num):
    labels = np.array([0] * 50 + [1] * 3 + [3] * 10)
    order = balanced_order(labels, num, 0, 1)
    assert len(order) == num
    counts = np.bincount(labels[order % 63], minlength=4)
    assert counts[2] == 0
    assert np.ptp(counts[[0, 1, 3]]) <= 1
    for label in (0, 1, 3):
        times = np.bincount(order % 63, minlength=63)[labels == label]
        assert np.ptp(times) <= 1
    assert len(set(order.tolist())) == num  # each draw is one of its own
    assert np.array_equal(order, balanced_order(labels, num, 0, 1))
    assert not np.array_equal(order, balanced_order(labels, num, 0, 2))
    assert not np.array_equal(order, balanced_order(labels, num, 1, 1))


def make_loader(crop: object, **settings: object) -> Loader:
    images = np.random.default_rng(0).integers(0, 255, (23, 8, 8, 3), np.uint8)
    split = ArraySplit(images, np.array([0] * 20 + [1] * 3))
    return Loader(split, crop, image_size=8, batch_size=4, seed=0, shuffle=True, balanced=True, **settings)  # type: ignore[arg-type]


def test_ranks_share_a_balanced_epoch_and_a_resumed_one_goes_on_in_it() -> None:
    whole = [(b.images.clone(), b.labels.clone(), b.indices.clone()) for b in make_loader(Whole()).epoch(3)]
    assert np.bincount(torch.cat([labels for _, labels, _ in whole]).numpy()).tolist() == [10, 10]
    later = [b.indices.clone() for b in make_loader(Whole()).epoch(3, start=2)]
    assert all(torch.equal(one, other[2]) for one, other in zip(later, whole[2:], strict=True))
    ranks = [[b.indices.clone() for b in make_loader(Whole(), rank=rank, world_size=2).epoch(3)] for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(batch[2], torch.cat(parts))


@pytest.mark.parametrize("crop, flip", [(Whole(), 0.5), (RandomResizedCrop(), 0.0)], ids=["copied", "resampled"])
def test_an_image_that_comes_again_is_augmented_in_another_way(crop, flip):
    shown: dict[int, set[bytes]] = {}
    for epoch in range(4):
        for batch in make_loader(crop, flip=flip).epoch(epoch):
            for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
                if index % 23 == 21:
                    shown.setdefault(epoch, set()).add(image.numpy().tobytes())
    assert max(len(ways) for ways in shown.values()) > 1


@pytest.mark.parametrize("settings", [(), ("augment.batch.erasing.probability=0.5", "microbatch=5")])
def test_a_killed_balanced_run_ends_with_the_same_weights(tiny_config: Make, train: Train, uneven: Path, settings):
    words = (f"data.root={uneven}", "sampler=balanced", "class_weights=balanced", "checkpoint.every_minutes=0")
    config = tiny_config(*words, *settings)
    whole = train(config, "whole")
    with pytest.raises(Killed):
        train(config, "killed", kill_at_step(4))
    assert same(train(config, "killed")["weights"], whole["weights"])


def test_balanced_accuracy_may_choose_the_best_epoch(tiny_config, train, uneven):
    results = train(tiny_config(f"data.root={uneven}", "checkpoint.best_metric=balanced", "max_steps=3"))
    assert 0 <= results["val_balanced"] <= 100


def test_a_network_that_answers_all_images_alike_is_stuck(tiny_config, train, uneven):
    loss = ClassificationLoss()
    assert loss.at_frequencies(np.array([0.95, 0.05]), 2) == pytest.approx(0.1985, abs=1e-4)
    assert loss.at_frequencies(np.array([0.5, 0.5]), 3) == pytest.approx(math.log(2))
    balanced = ClassificationLoss(class_weights=torch.tensor([0.5 / 0.95, 0.5 / 0.05]))
    assert balanced.at_frequencies(np.array([0.95, 0.05]), 2) == pytest.approx(math.log(2), rel=1e-6)

    def answer_alike(trainer: object) -> None:
        head = list(trainer.model.parameters())  # type: ignore[attr-defined]
        with torch.no_grad():
            head[-2].zero_()
            head[-1].copy_(torch.tensor([0.95, 0.05]).log())

    words = (f"data.root={uneven}", "optimizer.lr=0", "divergence.on_stuck=stop", "divergence.stuck_steps=6")
    with pytest.raises(RunError, match=r"stayed at 0\.1\d+ .* that answering all images alike gives"):
        train(tiny_config(*words, "epochs=9", "batch_size=40", "log_every_steps=1"), before=answer_alike)


def test_the_table_of_a_run_that_names_the_largest_class_says_that_it_learnt_nothing(tmp_path):
    results = {"val_top1": 95.0, "val_balanced": 50.0, "val_majority": 95.0, "data": {"classes": 2}, "best_epoch": 1}
    results |= {"epochs": 1, "steps": 1, "seconds": 1.0}
    always = "always naming the largest class gives 95.00 %; try class_weights=balanced"
    assert always in results_table(results, tmp_path)
    assert "learnt nothing" not in results_table(results | {"val_balanced": 90.0}, tmp_path)
