"""report.md of `gpu_report.py`: a table for each part, from the figures of its items."""

from collections.abc import Callable
from typing import Any

from gpu_parts import Part

Record = dict[str, Any]


def markdown(about: dict[str, Any], parts: list[Part], records: dict[str, list[Record]]) -> str:
    """Return the report as Markdown: what is measured, and why the rest is not."""
    size = "; **toy size: the figures say only that everything runs**" if about["toy"] else ""
    lines = ["# GPU report", "", f"{about['machine']}, {about['date']}{size}", ""]
    for part in parts:
        of_part = records[part.name]
        measured = [record for record in of_part if record["status"] == "measured"]
        lines += [f"## {part.title}", ""]
        if measured:
            lines += [*TABLES[part.name](measured), ""]
        others = [record for record in of_part if record["status"] != "measured"]
        lines += [f"- {record['item']}: {record['status']}: {_one_line(record['why'])}" for record in others]
        missing = len(part.items) - len(of_part)
        lines += [f"- {missing} items are not measured yet"] * (missing > 0)
        lines += [""] * bool(others or missing)
    return "\n".join(lines).rstrip() + "\n"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _tests(records: list[Record]) -> list[str]:
    (record,) = records
    passed = record["tests"] - record["failures"] - record["errors"] - record["skipped"]
    bad = record["failures"] + record["errors"]
    lines = [f"{passed} passed, {bad} failed, {record['skipped']} skipped, in {record['took_s']:.0f} s."]
    return lines + [f"- {_one_line(text)}" for text in record["failed"]]


def _rates(records: list[Record]) -> list[str]:
    peak = next((record for record in records if record["item"] == "peak"), None)
    lines = []
    if peak is not None:
        sheet = peak["data_sheet_flops"]
        of_sheet = "" if sheet is None else f", {peak['matmul_flops'] / sheet:.0%} of the data sheet's"
        lines = [f"One large product: {peak['matmul_flops'] / 1e12:.3g} TFLOP/s{of_sheet}.", ""]
    heads = ["network", "batch", "px", "compiled", "images/s", "TFLOP/s", "MFU", "GiB", "first step, s"]
    heads += ["of torchvision's reference", "of timm's"]
    rows = []
    for record in records:
        if record["item"] == "peak":
            continue
        rates = record["images_per_second"]
        most = None if peak is None else peak["data_sheet_flops"] or peak["matmul_flops"]
        share = "" if most is None else f"{record['flops'] / most:.1%}"
        ratios = [f"{rates['imgcls'] / rates[key]:.2f}" if key in rates else "" for key in ("torchvision", "timm")]
        rows.append(
            [
                *(record["item"], str(record["batch_size"]), str(record["image_size"]), _yes(record["compiled"])),
                *(f"{rates['imgcls']:,.0f}", f"{record['flops'] / 1e12:.3g}", share),
                *(_number(record, "peak_memory_gib"), f"{record['first_step_s']:.1f}", *ratios),
            ]
        )
    notes = dict.fromkeys(record["timm"] for record in records if "timm" in record)
    after = ["", f"timm: {'; '.join(notes)}. MFU is of the data sheet's bf16 FLOP/s, or of the product's without one."]
    return [*lines, *table(heads, rows), *(after if rows else [])]


def _switches(records: list[Record]) -> list[str]:
    fastest = next((record["images_per_second"] for record in records if record["item"] == "all"), None)
    rows = []
    for record in records:
        rate = record["images_per_second"]
        ratio = "" if fastest is None else f"{rate / fastest:.2f}"
        rows.append(
            [record["item"], f"{rate:,.1f}", ratio, f"{record['first_step_s']:.1f}", _number(record, "peak_memory_gib")]
        )
    return table(["changed", "images/s", "of all", "first step, s", "GiB"], rows)


def _jpegs(records: list[Record]) -> list[str]:
    rows = [
        [
            *(record["item"], *(f"{record[key]:,.0f}" for key in ("data", "step", "training"))),
            *(f"{record['share_of_step']:.1%}", f"{record['waiting']:.0%}"),
            *(str(record["threads"]), record["decoder"]),
        ]
        for record in records
    ]
    heads = ["images", "data alone, images/s", "step alone", "training", "share of the step", "waiting"]
    return table([*heads, "threads", "decoder"], rows)


def _deterministic(records: list[Record]) -> list[str]:
    lines = []
    for record in records:
        if "same" in record:
            same = "the same bits" if record["same"] else "**other bits** (see deterministic.log)"
            lines.append(f"- a run that was killed and resumed, against the unbroken one: {same}")
        else:
            lines.append(f"- its step has {record['ratio']:.2f} times the images/s of the step without it")
    return lines


def _memory(records: list[Record]) -> list[str]:
    return [
        f"- batch_size={record['batch_size']}: microbatch={record['microbatch']} found in "
        f"{record['seconds_to_find']:.1f} s" + (f", {record['memory_gib']:.0f} GiB" if "memory_gib" in record else "")
        for record in records
    ]


def _saving(records: list[Record]) -> list[str]:
    return [
        f"- {record['megabytes']:.0f} MB: the loop waits {1000 * record['waited_s']:.0f} ms, its steps lose "
        f"{1000 * record['lost_s']:.0f} ms; written in the loop instead: {1000 * record['in_loop_s']:.0f} ms"
        for record in records
    ]


def _training(records: list[Record]) -> list[str]:
    rows = [
        [
            *(record["item"], f"{record['val_top1']:.2f}", str(record["published"] or "")),
            *(str(record["steps"]), f"{record['seconds']:.0f}"),
        ]
        for record in records
    ]
    return table(["run", "top-1, %", "published (fastai)", "steps", "seconds"], rows)


TABLES: dict[str, Callable[[list[Record]], list[str]]] = {
    "tests": _tests,
    "rates": _rates,
    "switches": _switches,
    "jpegs": _jpegs,
    "deterministic": _deterministic,
    "memory": _memory,
    "saving": _saving,
    "training": _training,
}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _number(record: Record, key: str) -> str:
    return f"{record[key]:.1f}" if key in record else ""
