"""Predictions kept on disk, so that a network that was tested once joins an ensemble at no cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls.config import EvaluateConfig
from imgcls.data.sets import Split
from imgcls.inference import Member, Predictions, TestProtocol

CACHED_PROBS, CACHED_FACTS = "log_probs.npy", "log_probs.json"


def cache_key(member: Member, split: Split, protocol: TestProtocol, config: EvaluateConfig) -> dict[str, Any]:
    """Return everything that the predictions depend on; kept predictions are used only if theirs is equal."""
    return {
        "network": member.digest(),
        "images": split.fingerprint(),
        "num_images": len(split),
        "protocol": f"{type(protocol).__name__} {protocol}",
        "precision": config.precision,
        "pillow_draft": config.data.pillow_draft,
    }


def load_predictions(folder: Path, facts: dict[str, Any]) -> Predictions | None:
    """Return the predictions that an earlier test with the same `facts` saved in `folder`; None if there are none."""
    try:
        known = json.loads((folder / CACHED_FACTS).read_text())
        if known["facts"] != facts:
            return None
        predictions = Predictions(torch.from_numpy(np.load(folder / CACHED_PROBS)), torch.tensor(known["indices"]))
    except (OSError, EOFError, MemoryError, ValueError, TypeError, KeyError):
        return None
    return predictions if len(predictions.log_probs) == len(predictions.indices) else None


def save_predictions(folder: Path, predictions: Predictions, facts: dict[str, Any]) -> None:
    """Save predictions for a later test; a crash at any moment leaves no half of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CACHED_FACTS).unlink(missing_ok=True)  # they must not describe other numbers
    probs, known = folder / f"{CACHED_PROBS}.partial", folder / f"{CACHED_FACTS}.partial"
    with probs.open("wb") as file:
        np.save(file, predictions.log_probs.numpy())
    known.write_text(json.dumps({"facts": facts, "indices": predictions.indices.tolist()}))
    probs.replace(folder / CACHED_PROBS)
    known.replace(folder / CACHED_FACTS)
