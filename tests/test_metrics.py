"""Loss and accuracy against hand-counted numbers."""

import math

import pytest
import torch

from imgcls.metrics import METRICS, Meter, Metric, Scores, known_metrics, metric_of, metrics_of, rank_labels
from imgcls.training import ClassificationLoss

CPU = torch.device("cpu")


def test_top1_and_top5_count_what_a_hand_counts() -> None:
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3]] * 3)
    ranked = rank_labels(logits, torch.tensor([0, 4, 5]))
    assert (int(ranked[:, 0].sum()), int(ranked.sum())) == (1, 2)


def test_a_network_that_says_nothing_is_not_right() -> None:
    assert int(rank_labels(torch.zeros(100, 10), torch.arange(100) % 10)[:, 0].sum()) == 10


def test_scores_are_means_over_images_not_over_batches() -> None:
    meter = Meter(CPU)
    meter.update(torch.tensor(1.0), torch.eye(10)[:3], torch.tensor([0, 1, 2]))
    meter.update(torch.tensor(5.0), torch.eye(10)[:1], torch.tensor([9]))
    scores = meter.scores(10)
    assert scores.loss == pytest.approx(2.0)
    assert scores.top1 == pytest.approx(75)
    assert scores.num_images == 4


def test_top5_is_left_out_where_it_would_always_be_right() -> None:
    meter = Meter(CPU)
    meter.update(torch.tensor(1.0), torch.randn(4, 5), torch.tensor([0, 1, 2, 3]))
    assert meter.scores(5).top5 is None
    assert "top-5" not in str(meter.scores(5))


def test_a_list_of_ks_gives_a_top_k_for_each() -> None:
    metrics = metrics_of([5, 1, 3])
    assert list(metrics) == ["loss", "top1", "top3", "top5", "balanced"]
    meter = Meter(CPU, metrics=metrics)
    meter.update(torch.tensor(1.0), torch.tensor([[9.0, 8, 7, 6, 5, 4, 3]] * 4), torch.tensor([0, 2, 4, 6]))
    scores = meter.scores(7)
    assert (scores.top1, scores.top3, scores.top5) == (25, 50, 75)
    assert "top-3  50.00 %" in str(scores)
    with pytest.raises(AttributeError):
        _ = scores.top_3


def test_the_metrics_of_a_file_are_known_by_their_names() -> None:
    assert list(known_metrics(["val/loss", "seconds", "top10", "balanced", "top1", "top2"])) == [
        "top1",
        "top2",
        "top10",
        "balanced",
    ]
    assert metric_of("top0") is None
    assert metric_of("top-3") is None


def test_a_metric_knows_which_value_is_better_and_any_beats_none() -> None:
    assert METRICS["loss"].better(1.0, 2.0)
    assert not METRICS["loss"].better(2.0, 2.0)
    assert METRICS["top1"].better(60.0, 50.0)
    assert METRICS["top5"].better(60.0, None)
    assert not METRICS["top5"].better(None, None)


def test_scores_are_written_with_their_units() -> None:
    assert str(Scores(loss=1.25, top1=50.0, top5=99.5, num_images=10)) == "loss 1.2500  top-1  50.00 %  top-5  99.50 %"
    assert Metric("nats", lambda outputs: outputs.loss, digits=1).text(2.25) == "2.2"
    assert METRICS["top5"].text(None) == "(fewer than 6 classes)"


def test_sums_are_the_same_bits_wherever_they_are_read_in_between() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand((), generator=generator), torch.randn(7, 10, generator=generator), torch.arange(7))
        for _ in range(600)
    ]
    once, often = Meter(CPU), Meter(CPU)
    for number, batch in enumerate(batches):
        once.update(*batch)
        often.update(*batch)
        if number % 7 == 3:
            assert often.sums[-1] == 7 * (number + 1)
    assert torch.equal(once.sums, often.sums)
    assert once.scores(10).loss == pytest.approx(float(torch.stack([loss for loss, _, _ in batches]).double().mean()))


def test_labels_whose_memory_is_used_again_are_counted_as_they_were() -> None:
    labels, meter = torch.tensor([1, 1]), Meter(CPU)
    for label in (1, 2):
        labels.fill_(label)  # as the loader fills the memory of a batch with the next one
        meter.update(torch.tensor(1.0), torch.eye(10)[labels], labels)
    assert meter.scores(10).top1 == 100


def test_no_image_gives_no_number() -> None:
    assert math.isnan(Meter(CPU).scores(10).top1)


def test_auxiliary_heads_weigh_three_tenths_each() -> None:
    main, one, two = torch.randn(3, 4, 10)
    labels = torch.tensor([1, 2, 3, 4])
    plain = torch.nn.functional.cross_entropy
    loss, logits = ClassificationLoss(auxiliary_weight=0.3)((main, one, two), labels)
    assert loss == pytest.approx((plain(main, labels) + 0.3 * (plain(one, labels) + plain(two, labels))).item())
    assert logits is main


def test_class_probabilities_equal_class_indices_where_they_are_certain() -> None:
    logits, labels = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    criterion = ClassificationLoss(label_smoothing=0.1)
    certain = torch.nn.functional.one_hot(labels, 10).float()
    assert criterion(logits, labels).loss == pytest.approx(criterion(logits, certain).loss.item())
