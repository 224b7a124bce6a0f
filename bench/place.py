"""Where the large files of the comparison are kept: in the user's cache, never in the repository."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPE = Path(__file__).with_name("shape.json")
RESULTS = Path(__file__).with_name("results")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antangel"
FILES = CACHE / "bench"
