"""A plan as the lines that a command prints."""

from collections.abc import Sequence

from imgcls.planning.cost import WORKSPACE_GIB, Plan, Scaling
from imgcls.runs import duration_text, epochs_text


def plan_text(plan: Plan, rows: Sequence[Scaling], *, mfu: float | None, link_gb_s: float | None, priced: bool) -> str:
    """Return the plan.

    Args:
        rows: the run on numbers of GPUs, of which the last one is spoken of.
        mfu, link_gb_s: as given, or None for the table's.
        priced: the price was given.
    """
    gpu, last = plan.hardware, rows[-1]
    share = plan.batch_size // last.num_gpus
    source = "as given" if mfu is not None else gpu.mfu_source
    link = f"{gpu.link_gb_s:g} GB/s ({gpu.link})" if link_gb_s is None else f"{link_gb_s:g} GB/s"
    lines = [
        f"model      {plan.name}: {plan.parameters:,} parameters, {plan.macs / 1e9:.2f} GMACs an image at "
        f"{plan.image_size} px",
        f"run        {epochs_text(plan.epochs)} of {plan.steps:,} steps of {plan.batch_size} images: "
        f"{plan.num_images:,} images forward and backward, {plan.num_val:,} forward",
        f"hardware   {gpu.title}: {gpu.tflops:g} TFLOP/s, used to {100 * (gpu.mfu if mfu is None else mfu):.1f} % "
        f"({source}): {plan.images_s:,.0f} images/s",
        *_memory(plan, share, last.num_gpus),
        f"price      {_price(plan, last, priced)}",
        "",
        *_table(rows),
    ]
    if last.num_gpus > 1:
        lines += ["", *_links(plan, last, link)]
    lines += [
        "",
        "Hours are of the step alone: the images must be read as fast. A network of more operations a byte than",
        "ResNet-50, such as VGG, uses more of the GPU, a smaller one less; mfu=... takes what you have measured.",
        "Energy is the GPUs' at their limit of power, without the machine around them.",
    ]
    return "\n".join(lines)


def _memory(plan: Plan, share: int, num_gpus: int) -> list[str]:
    fits = plan.images_that_fit()
    needed = (plan.state_bytes + plan.activation_bytes * share) / 2**30 + WORKSPACE_GIB
    on = f" of each of {num_gpus} GPUs" if num_gpus > 1 else ""
    line = (
        f"memory     at least {needed:.1f} of {plan.hardware.memory_gib:g} GiB for {share} images{on}: "
        f"{plan.state_bytes / 2**30:.2f} GiB of weights, gradients and moments, "
        f"{plan.activation_bytes / 2**20:.0f} MiB of maps an image, {WORKSPACE_GIB:g} GiB of CUDA"
    )
    if fits == 0:
        return [line, "memory     it does not fit; take a GPU with more"]
    if fits < share:
        return [
            line,
            f"memory     at most {fits} images fit: microbatch={1 << (fits.bit_length() - 1)}, or microbatch=auto",
        ]
    return [line]


def _price(plan: Plan, row: Scaling, priced: bool) -> str:
    if row.usd is None:
        return "none is known for this GPU; usd_per_hour=... takes one"
    hourly = row.usd / row.gpu_hours if row.gpu_hours else 0.0
    return f"{hourly:.2f} USD a GPU and hour ({'as given' if priced else plan.hardware.price_source})"


def _table(rows: Sequence[Scaling]) -> list[str]:
    cells = [["GPUs", "time", "GPU hours", "kWh", "USD", "all-reduce", "efficiency"]]
    for row in rows:
        money = "-" if row.usd is None else f"{row.usd:,.2f}"
        cells.append(
            [
                str(row.num_gpus),
                duration_text(row.seconds),
                f"{row.gpu_hours:,.1f}",
                f"{row.kwh:,.1f}",
                money,
                f"{1000 * row.all_reduce:.2f} ms" if row.num_gpus > 1 else "-",
                f"{100 * row.efficiency:.0f} %",
            ]
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def _links(plan: Plan, row: Scaling, link: str) -> list[str]:
    step = plan.step_seconds / row.num_gpus
    verdict = (
        f"the step waits {1000 * row.exposed:.2f} ms for it: gradients of fewer bytes (compression) would help"
        if row.exposed
        else "the backward pass hides it"
    )
    return [
        f"On {row.num_gpus} GPUs at {link} a ring all-reduce of {4 * plan.parameters / 1e6:,.0f} MB of gradients takes "
        f"{1000 * row.all_reduce:.2f} ms of a step of {1000 * step:.2f} ms; {verdict}.",
        f"Below {row.least_link:.3g} GB/s ({8 * row.least_link:.3g} Gbit/s) a step waits for it, and compression of "
        "gradients matters; above, it gains nothing.",
    ]
