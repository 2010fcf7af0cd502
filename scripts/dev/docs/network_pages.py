"""What the page of networks shows of each: its layers and drawing, read off the network as images go through it."""

from drawings import draw_network

from imgcls.evaluation import published_results
from imgcls.models import NetworkSummary, folded, summarize_network

# Families by their first word on the page: the configs of conf/model that its table lists.
FAMILIES = {
    "lenet": ["lenet5"],
    "alexnet": ["alexnet", "alexnet model.groups=2"],
    "vgg": [f"vgg{name}" for name in ("11", "11_lrn", "13", "16_1x1", "16", "19", "11_bn", "13_bn", "16_bn", "19_bn")],
    "googlenet": ["googlenet", "googlenet model.batch_norm=true"],
    "resnet": ["resnet18", "resnet34", "resnet50", "resnet50 model.stride_in_3x3=true", "resnet101", "resnet152"],
}


def drawing(words: str) -> str:
    """Return the SVG of a network, as HTML for a page."""
    network = summarize_network(words)
    return draw_network(network, folded(network.layers))


def layer_table(words: str) -> str:
    """Return the table of a network's layers, folded, as Markdown."""
    network = summarize_network(words)
    lines = ["| layer | what | output | parameters | multiply-adds |", "|---|---|---|---:|---:|"]
    for layer in folded(network.layers):
        times = f" (×{layer.repeats})" if layer.repeats > 1 else ""
        note = " (training only)" if layer.training_only else ""
        what = " \\| ".join(layer.inside)
        parameters, macs = layer.parameters * layer.repeats, layer.multiply_adds * layer.repeats
        lines.append(
            f"| `{layer.name}`{times}{note} | {KINDS.get(layer.kind, layer.kind)} {what} | {layer.shape_text} "
            f"| {_count(parameters)} | {_giga(macs) if macs else ''} |"
        )
    total = f"**{network.parameters:,}** | **{_giga(network.multiply_adds)}**"
    lines.append(f"| **sum** | with batch norms, without what only training uses | | {total} |")
    return "\n".join(lines)


KINDS = {
    "Conv2d": "convolution",
    "Linear": "full connection",
    "MaxPool2d": "pooling",
    "Pooling": "pooling",
    "LocalResponseNorm": "response norm. over",
    "BasicBlock": "residual block",
    "Bottleneck": "residual block",
    "Inception": "inception",
    "AuxHead": "auxiliary head",
}


def family_table(family: str) -> str:
    """Return the table of the networks of one family: size, cost, least image and published scores, as Markdown."""
    lines = [
        "| choose by | parameters | multiply-adds | image | least image | published top-1 / top-5, centre crop |",
        "|---|---:|---:|---|---|---|",
    ]
    for words in FAMILIES[family]:
        network = summarize_network(words)
        lines.append(
            f"| {network.title} | {network.parameters:,} | {_giga(network.multiply_adds)} | {network.image_size} px "
            f"| {network.least_image_size} px | {_published(network)} |"
        )
    return "\n".join(lines)


def _published(network: NetworkSummary) -> str:
    later_form = "model.stride_in_3x3=true" in network.words
    if len(network.words) > 1 and not later_form:
        return ""
    where = "v1.5: " if network.arch in ("resnet50", "resnet101", "resnet152") and not later_form else ""
    rows = [row for row in published_results() if row.model == network.arch and row.protocol == "center"]
    return "; ".join(
        f"{where}{row.scores['top1']:.1f} / {row.scores['top5']:.1f} % ({row.weights[-2:]})"
        for row in rows
        if row.weights
    )


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _giga(number: int) -> str:
    scale, unit = (1e9, "G") if number >= 1e8 else (1e6, "M") if number >= 1e4 else (1e3, "k")
    return f"{number / scale:.2f} {unit}"
