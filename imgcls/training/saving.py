"""When a run is saved: at the end of an epoch, every few minutes, and when a signal stops it."""

import logging
from typing import TYPE_CHECKING

from imgcls import distributed
from imgcls.metrics import Scores
from imgcls.runs import Interrupted, stop_name
from imgcls.training.divergence import check_weights
from imgcls.training.state import snapshot

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)


def save(trainer: "Trainer", *, best: Scores | None = None, epoch: int | None = None) -> None:
    """Write last.pt in the background, and best.pt if what was just validated is the `best`.

    Raises:
        DivergedError: the loss or a weight is not finite; nothing is written.
    """
    trainer.watch.check(epoch=trainer.state.epoch + 1)
    check_weights(trainer.model, step=trainer.state.step)
    content = snapshot(trainer)
    best_content = None
    if best is not None:
        weights = content["model"] if trainer.average is None else content["average"]
        scores = best.values()
        best_content = trainer.description | {"model": weights, "epoch": trainer.state.best_epoch, "val": scores}
    trainer.checkpoints.save(content, best=best_content, epoch=epoch)


def save_single_rank(trainer: "Trainer") -> None:
    """Save before an error of this rank ends the run; not with several ranks, because the others wait in a step."""
    if distributed.world_size() == 1:
        save(trainer)


def handle_stop_signal(trainer: "Trainer", *, save_if_due: bool = True) -> None:
    """Save and stop if any rank received a signal; save if a save is due. All ranks decide alike.

    Several ranks do so one step after they were asked to: see `Agreement`.

    Raises:
        Interrupted: a signal stopped the run.
    """
    agreement = trainer.agreement
    if distributed.world_size() > 1:
        _act(trainer, agreement.answer(), save_if_due=save_if_due)
        agreement.ask(_wanted(trainer))
    else:
        _act(trainer, _wanted(trainer), save_if_due=save_if_due)


def _wanted(trainer: "Trainer") -> int:
    """Return what this rank asks for: twice the number of its signal, and one more for a save."""
    return 2 * trainer.signals.request + (trainer.save_requested or trainer.checkpoints.due)


def _act(trainer: "Trainer", answer: int, *, save_if_due: bool) -> None:
    number, step = answer // 2, trainer.state.step
    if number:
        log.info("%s: saving after step %d", stop_name(number), step)
    if number or (answer and save_if_due):
        trainer.save_requested = False
        save(trainer)
    if number:
        trainer.checkpoints.settle()
        without = ", without overwrite=true," if trainer.config.overwrite else ""
        raise Interrupted(number, f"saved after step {step}; the same command{without} goes on from there")
