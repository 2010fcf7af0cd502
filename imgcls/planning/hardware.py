"""GPUs and their figures, from hardware.csv. Imports no torch.

Peak rates (dense bf16 or fp16 on tensor cores, sums in fp32), memory, its bandwidth, power limits and links are those
of NVIDIA's data sheets and white papers; a link's rate is one direction of all of a GPU's lanes. The vendor's own pages
were not at hand: `source` names the document and who quotes it, as compared on 28 November 2026, and what is from
memory. `resnet50_images_s` is a published rate of training, with its source, read in NVIDIA's own table; prices are of
one GPU for an hour, with source and date. Both change: plan.py's `mfu=` and `usd_per_hour=` take their place.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from imgcls.errors import ConfigError, did_you_mean

TABLE = Path(__file__).with_name("hardware.csv")
# ResNet-50 with its stride in the 3x3 convolution, at 224 pixels (v1.5, which the published rates are of).
RESNET50_MACS = 4_089_184_256
REFERENCE = "a100"  # whose published rate gives those of the GPUs that have none, by their bandwidth of memory


@dataclass(frozen=True)
class Hardware:
    """A GPU.

    Args:
        tflops: the peak rate of matrix products in mixed precision, 10^12 operations a second.
        memory_gib, bandwidth_tb_s: of its memory.
        power_w: its limit.
        link_gb_s, link: one direction of what connects it with the others of its machine, 10^9 bytes a second.
        mfu: the share of `tflops` that a training of ResNet-50 uses, and where that is known from.
        usd_per_hour: of one, and whose price that is; None if it is not known.
    """

    name: str
    title: str
    tflops: float
    memory_gib: float
    bandwidth_tb_s: float
    power_w: float
    link_gb_s: float
    link: str
    mfu: float
    mfu_source: str
    usd_per_hour: float | None
    price_source: str


def training_flops(macs: float) -> float:
    """Return the operations of one training image: two a multiply-add, forward once and backward twice that."""
    return 6.0 * macs


@functools.cache
def _rows() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def hardware_names() -> list[str]:
    """Return the names of the GPUs in the table."""
    return list(_rows())


def read_hardware(name: str) -> Hardware:
    """Return the GPU of that name.

    Raises:
        ConfigError: the table has none.
    """
    rows = _rows()
    if name not in rows:
        raise ConfigError(f"hardware={name} is none of {', '.join(rows)}{did_you_mean(name, rows)}")
    row, reference = rows[name], rows[REFERENCE]
    rate, source = row["resnet50_images_s"], f"published: {row['rate_source']}"
    if not rate:
        ratio = float(row["bandwidth_tb_s"]) / float(reference["bandwidth_tb_s"])
        rate = str(float(reference["resnet50_images_s"]) * ratio)
        source = f"estimated: the published rate of {reference['title']} by the bandwidth of memory, which bounds it"
    price = row["usd_per_hour"]
    return Hardware(
        name=name,
        title=row["title"],
        **{key: float(row[key]) for key in ("tflops", "memory_gib", "bandwidth_tb_s", "power_w", "link_gb_s")},
        link=row["link"],
        mfu=float(rate) * training_flops(RESNET50_MACS) / (float(row["tflops"]) * 1e12),
        mfu_source=source,
        usd_per_hour=float(price) if price else None,
        price_source=row["price_source"],
    )
