"""When a run is saved: at the end of an epoch, every few minutes, and when a signal stops it."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imgcls import distributed
from imgcls.config import Config
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import LOOK_AHEAD, Batch, Coming
from imgcls.errors import ConfigError, RunError, exit_code_of
from imgcls.metrics import Scores
from imgcls.runs import Interrupted, stop_name
from imgcls.training.bad_files import remember_bad_file
from imgcls.training.divergence import check_weights
from imgcls.training.state import snapshot

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)
CANNOT_GO_ON = 1_000_000  # more than any signal: a rank is out of memory, or has a batch ahead that cannot be read


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


def way_to_go_on(config: Config) -> str:
    """Say how a saved run is taken up again; overwrite=true would begin it again."""
    without = ", without overwrite=true," if config.overwrite else ""
    return f"the same command{without} goes on from there"


def saved_after(step: int, config: Config) -> str:
    """Say after which step a run was saved that ran out of memory, and how it is taken up again."""
    return (
        f"The run is saved after step {step}: {way_to_go_on(config)}, and with continue_run=true also one with other "
        "settings"
    )


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


def start_together(trainer: "Trainer", batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield this rank's batches; of several ranks, all raise if one of them cannot read its first ones.

    They are too early to be found out one step late. The run was saved where it begins with them.
    """
    if distributed.world_size() == 1:
        yield from batches
        return
    start, loader = trainer.state.batch, trainer.train_loader
    first, coming = None, None
    try:
        first = next(batches, None)
        coming = loader.coming
    except Exception as error:
        if exit_code_of(error) is None:
            raise
        coming = Coming(start, error)
    early = coming is not None and coming.position < start + LOOK_AHEAD and _is_trained_on(trainer, coming.position)
    _raise_on_all_ranks(trainer, coming.error if early and coming is not None else None)
    if first is not None:
        yield first
    yield from batches


def _is_trained_on(trainer: "Trainer", position: int) -> bool:
    """Return True if the batch at `position` of this epoch comes before the run's last step."""
    state, most = trainer.state, trainer.config.max_steps
    return most is None or state.step - state.batch + position < most


def _raise_on_all_ranks(trainer: "Trainer", error: Exception | None) -> None:
    if isinstance(error, BadImageError):
        remember_bad_file(trainer, error)
    # As plain text: an image's error holds its whole split.
    distributed.check_errors(None if error is None else ConfigError(str(error)))


def _wanted(trainer: "Trainer") -> int:
    """Return what this rank asks for: an end, or twice the number of its signal, and one more for a save."""
    coming = trainer.train_loader.coming
    if trainer.failure is not None or (coming is not None and _is_trained_on(trainer, coming.position)):
        return CANNOT_GO_ON
    return 2 * trainer.signals.request + (trainer.save_requested or trainer.checkpoints.due)


def _act(trainer: "Trainer", answer: int, *, save_if_due: bool) -> None:
    step = trainer.state.step
    if answer == CANNOT_GO_ON:
        failure, coming = trainer.failure, trainer.train_loader.coming
        save(trainer)
        trainer.checkpoints.settle()
        if failure is not None:
            distributed.check_errors(RunError(f"{failure}. {saved_after(step, trainer.config)}"))
        _raise_on_all_ranks(trainer, None if coming is None else coming.error)
        return
    number = answer // 2
    if number:
        log.info("%s: saving after step %d", stop_name(number), step)
    if number or (answer and save_if_due):
        trainer.save_requested = False
        save(trainer)
    if number:
        trainer.checkpoints.settle()
        raise Interrupted(number, f"saved after step {step}; {way_to_go_on(trainer.config)}")
