"""What a training takes: the steps of its config, the memory and operations of its network, the rates of a GPU."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from imgcls.config import Config, ImageSize, fit_to_set, has_open_size
from imgcls.models import kept_bytes, outline_model
from imgcls.planning.hardware import Hardware, training_flops

BYTES = 4  # of a weight, a gradient, a moment of the optimizer: float32
SHARE_OF_FLOAT32 = 0.5  # of the maps that are kept for the backward pass, in mixed precision
WORKSPACE_GIB = 1.5  # of CUDA's context, cuDNN's scratch memory, and the batch
BACKWARD = 2 / 3  # of a step; the all-reduce of gradients is hidden behind it


@dataclass(frozen=True)
class Plan:
    """A training on one GPU.

    Args:
        name, parameters, macs: of the network; multiply-adds of one image, forward.
        activation_bytes: kept of one image for the backward pass, in mixed precision.
        state_bytes: weights, gradients, the optimizer's moments, and the average of the weights if there is one.
        batch_size, epochs, steps: of the run; steps an epoch.
        num_images, num_val: passes forward and backward, and forward alone, over the whole run.
        images_s: of training, with the step alone: the data must come as fast.
        seconds: of the whole run.
    """

    name: str
    parameters: int
    macs: int
    image_size: ImageSize
    activation_bytes: float
    state_bytes: float
    batch_size: int
    epochs: int
    steps: int
    num_images: int
    num_val: int
    images_s: float
    seconds: float
    hardware: Hardware

    @property
    def step_seconds(self) -> float:
        """Of one step on one GPU."""
        return self.batch_size / self.images_s

    @property
    def memory_gib(self) -> float:
        """Of a step with the whole batch on one GPU."""
        return (self.state_bytes + self.activation_bytes * self.batch_size) / 2**30 + WORKSPACE_GIB

    def images_that_fit(self) -> int:
        """Return how many images a pass may have, 0 if the network itself does not fit."""
        room = (self.hardware.memory_gib - WORKSPACE_GIB) * 2**30 - self.state_bytes
        return max(0, int(room // self.activation_bytes))


@dataclass(frozen=True)
class Scaling:
    """A training on several GPUs that share the batch, each with its part of it.

    Args:
        seconds: of the whole run, where the all-reduce is hidden behind the backward pass as far as that is as long.
        exposed: all-reduce for which a step waits, in seconds.
        efficiency: of 1, that of GPUs that never wait for each other.
        all_reduce: in seconds, by the ring: each GPU sends 2 (n - 1) / n of the gradients.
        least_link: the rate of the link, 10^9 bytes a second, below which a step waits for it.
        gpu_hours, kwh, usd: of all GPUs.
    """

    num_gpus: int
    seconds: float
    efficiency: float
    all_reduce: float
    exposed: float
    least_link: float
    gpu_hours: float
    kwh: float
    usd: float | None


def make_plan(
    config: Config, hardware: Hardware, *, num_classes: int, num_train: int, num_val: int, mfu: float | None = None
) -> Plan:
    """Return what the run of `config` takes on one GPU.

    Args:
        num_train, num_val: images of the set.
        mfu: the share of the GPU's peak rate that is used, instead of the table's.
    """
    config = fit_to_set(config, num_train) if has_open_size(config) else config
    network = outline_model(config, num_classes=num_classes)
    images = torch.zeros(2, config.data.channels, *config.input_size, device="meta")
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    macs = counter.get_total_flops() // 2 // len(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    moments = 2 if "Adam" in str(config.optimizer["_target_"]) else 1 if config.optimizer.get("momentum") else 0
    copies = 2 + moments + (config.ema_decay > 0)
    kept = kept_bytes(network, channels=config.data.channels, size=config.input_size)
    steps = max(num_train // config.batch_size, 1)
    total = steps * config.epochs if config.max_steps is None else min(steps * config.epochs, config.max_steps)
    images_s = hardware.tflops * 1e12 * (hardware.mfu if mfu is None else mfu) / training_flops(macs)
    validated = round(total / steps / config.validate_every) * num_val * (1 + (config.ema_decay > 0))
    return Plan(
        name=str(network.arch),
        parameters=parameters,
        macs=macs,
        image_size=config.input_size,
        activation_bytes=kept * SHARE_OF_FLOAT32,
        state_bytes=float(parameters * BYTES * copies),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=steps,
        num_images=total * config.batch_size,
        num_val=validated,
        images_s=images_s,
        seconds=(total * config.batch_size + validated / 3) / images_s,
        hardware=hardware,
    )


def scaling(plan: Plan, num_gpus: int, *, link_gb_s: float | None = None, usd_per_hour: float | None = None) -> Scaling:
    """Return what the run takes on `num_gpus` that share its batch.

    DDP sums the float32 gradients while the backward pass goes on (Li et al. 2020), so that a step waits for what is
    longer: the backward pass, or the ring all-reduce (Patarasuk & Yuan 2009).

    Args:
        link_gb_s: of the slowest link, one direction; the table's if None.
        usd_per_hour: of one GPU; the table's if None.
    """
    link = plan.hardware.link_gb_s if link_gb_s is None else link_gb_s
    step = plan.step_seconds / num_gpus
    sent = 2 * (num_gpus - 1) / num_gpus * plan.parameters * BYTES
    all_reduce = sent / (link * 1e9)
    exposed = max(0.0, all_reduce - BACKWARD * step)
    seconds = plan.seconds / num_gpus * (step + exposed) / step
    gpu_hours = seconds * num_gpus / 3600
    price = plan.hardware.usd_per_hour if usd_per_hour is None else usd_per_hour
    return Scaling(
        num_gpus=num_gpus,
        seconds=seconds,
        efficiency=step / (step + exposed),
        all_reduce=all_reduce,
        exposed=exposed,
        least_link=sent / (BACKWARD * step) / 1e9,
        gpu_hours=gpu_hours,
        kwh=gpu_hours * plan.hardware.power_w / 1000,
        usd=None if price is None else gpu_hours * price,
    )
