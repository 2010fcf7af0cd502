"""Ensembles: check that the members fit together, and compare each with the others and with the ensemble."""

from collections.abc import Sequence
from typing import Any

import torch

from imgcls.errors import ConfigError
from imgcls.evaluation.report import MemberResult, scores_dict
from imgcls.inference import Predictions, ensemble_predictions, open_checkpoint, scores_of_predictions
from imgcls.metrics import known_metrics, percents
from imgcls.runs import confidence_interval, mcnemar, only_seeds_differ
from imgcls.startup import checkpoint_file


def check_checkpoints(paths: list[str]) -> None:
    """Check before the first network is run that an ensemble's checkpoints exist and know the same classes.

    Raises:
        FileNotFoundError, ValueError: one is not there, cannot be read, or knows other classes than the first.
    """
    files = [checkpoint_file(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"checkpoint={file}: there is no such file")
    first = None
    for file in files:
        try:  # mapped: its tensors stay on the disk
            classes = list(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["classes"])
        except Exception:  # open_checkpoint names what is wrong with it
            classes = open_checkpoint(file).classes
        assert classes is not None
        first = first or classes
        _check_classes(str(files[0]), first, str(file), classes)


def _check_classes(first: str, own: list[str], other: str, theirs: list[str]) -> None:
    if theirs != own:
        raise ConfigError(
            f"{other} knows {len(theirs)} classes and {first} {len(own)}, or in another order; "
            "an ensemble's members must know the same"
        )


def check_same_images(first: MemberResult, other: MemberResult) -> None:
    """Check that the members of an ensemble were tested on the same images and classes.

    Raises:
        ValueError: they differ.
    """
    _check_classes(first.name, first.classes, other.name, other.classes)
    if len(other.labels) != len(first.labels) or (other.labels != first.labels).any():
        raise ConfigError(f"{other.name} and {first.name} were trained on other sets; name one to test on: data=...")
    if other.predictions is None or first.predictions is None:
        return
    if not torch.equal(other.predictions.indices, first.predictions.indices):
        raise ConfigError(
            f"{other.name} and {first.name} could not read the same images, or one was tested when a file was missing; "
            "test them together with fresh=true"
        )


def ensemble_results(
    tested: list[MemberResult], predictions: list[Predictions], names: list[str], topk: Sequence[int]
) -> dict[str, Any]:
    """Return the members' scores, those of the ensemble as members are added in order, and tests of the differences."""
    labels = tested[0].labels[predictions[0].indices.numpy()]
    true = torch.from_numpy(labels)
    right = [(member.log_probs.argmax(dim=1) == true).numpy() for member in predictions]
    alone = [scores_of_predictions(member, true, topk) for member in predictions]
    added = [
        scores_of_predictions(ensemble_predictions(predictions[: count + 1]), true, topk)
        for count in range(len(predictions))
    ]
    results: dict[str, Any] = {
        "members": [{"name": name, **scores_dict(value)} for name, value in zip(names, alone, strict=True)],
        "added": [scores_dict(value) for value in added],
        "mcnemar": [
            {"first": names[i], "second": names[j], **mcnemar(right[i], right[j])._asdict()}
            for i in range(len(right))
            for j in range(i + 1, len(right))
        ],
    }
    if only_seeds_differ([member.config for member in tested]):
        for name in percents(known_metrics(alone[0].values())):
            values = [getattr(value, name) for value in alone]
            if None not in values:
                interval = confidence_interval(values)
                results[f"seeds_{name}"] = {"mean": interval.mean, "half_width_95": interval.half_width}
    return results


def ensemble_table(results: dict[str, Any]) -> str:
    """Return a table of the members and what each adds."""
    metrics = known_metrics(results["added"][-1])
    titles = {name: f"{metrics[name].title} %" for name in percents(metrics)}

    def cells(row: dict[str, Any]) -> str:
        texts = {name: "-" if row[name] is None else f"{row[name]:.2f}" for name in titles}
        return " ".join(f"{texts[name]:>{len(title)}}" for name, title in titles.items())

    width = max(len("member"), *(len(row["name"]) for row in results["members"]))
    lines = [f"{'member':<{width}}  {' '.join(titles.values())}   with those above"]
    lines += [
        f"{row['name']:<{width}}  {cells(row)}   {cells(with_above)}"
        for row, with_above in zip(results["members"], results["added"], strict=True)
    ]
    last, best = results["added"][-1]["top1"], max(row["top1"] for row in results["members"])
    lines.append(f"gain over the best member: {last - best:+.2f} points of top-1")
    for name in titles:
        if interval := results.get(f"seeds_{name}"):
            mean, half = interval["mean"], interval["half_width_95"]
            lines.append(
                f"over the seeds: {metrics[name].title} {mean:.2f} +- {half:.2f} % (95 % interval of the mean)"
            )
    for pair in results["mcnemar"][:10]:
        verdict = "differ" if pair["p_value"] < 0.05 else "do not differ significantly"
        lines.append(
            f"McNemar: {pair['first']} and {pair['second']} {verdict}: {pair['only_first']} images only the first has "
            f"right, {pair['only_second']} only the second, p = {pair['p_value']:.3g}"
        )
    return "\n".join(lines)
