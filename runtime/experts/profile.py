"""How often each expert was used in earlier runs: totals only, nothing per token, kept to warm the next start."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.pack_layout import ExpertGeometry

VERSION = 1

# What earlier runs count beside the one that ends.
MEMORY = 0.5


def load_profile(path: Path, geometry: ExpertGeometry) -> NDArray[np.int64] | None:
    """Uses of every expert, layer by layer; None where there is no profile of such a model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        totals = np.array(content["totals"], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    fits = content.get("version") == VERSION and totals.shape == (len(geometry.layers), geometry.count)
    return totals.reshape(-1) if fits and (totals >= 0).all() else None


def save_profile(path: Path, geometry: ExpertGeometry, totals: NDArray[np.int64]) -> None:
    """Adds a run's uses to half of what was there. Written aside, then renamed; only the owner reads it.

    Raises OSError.
    """
    earlier = load_profile(path, geometry)
    summed = totals if earlier is None else totals + (MEMORY * earlier).astype(np.int64)
    content = {"version": VERSION, "totals": summed.reshape(len(geometry.layers), -1).tolist()}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
