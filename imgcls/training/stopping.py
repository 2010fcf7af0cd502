"""When a run validates, and when it ends before its last epoch. All of it follows from what a checkpoint saves."""

from typing import TYPE_CHECKING

from imgcls.metrics import metrics_of
from imgcls.runs import epochs_text

if TYPE_CHECKING:
    from imgcls.training.trainer import Trainer


def epoch_is_over(trainer: "Trainer") -> bool:
    return trainer.state.batch >= trainer.train_loader.num_batches or trainer.out_of_steps()


def validation_due(trainer: "Trainer") -> bool:
    """Return True if the network is validated before its next step: every so often, and after the last one."""
    state, every = trainer.state, trainer.config.validate_every
    if epoch_is_over(trainer):
        last = state.epoch + 1 >= trainer.config.epochs or trainer.out_of_steps()
        return last or every < 1 or (state.epoch + 1) % every == 0
    if every >= 1 or state.batch == 0 or state.validated_step == state.step:
        return False
    return state.batch % max(1, round(every * trainer.train_loader.num_batches)) == 0


def reason_to_end(trainer: "Trainer") -> str | None:
    """Return why the run ends after the epoch that was just validated, or None if it goes on."""
    state, config = trainer.state, trainer.config
    if state.batch or state.validated_step != state.step:
        return None
    patience = config.early_stopping.patience_epochs
    metric = metrics_of(config.topk)[config.checkpoint.best_metric].title
    stalled = state.epoch - state.best_epoch
    if patience is not None and stalled >= patience:
        return f"no better {metric} for {epochs_text(stalled)} (early_stopping.patience_epochs={patience})"
    group = trainer.optimizer.param_groups[0]
    if "lr" not in group:
        return None
    return trainer.schedule.reason_to_end(group.get("initial_lr", group["lr"]) * trainer.lr_penalty())
