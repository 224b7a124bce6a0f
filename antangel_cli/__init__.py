"""antangel: a clinical assistant on the command line.

Importing this package puts our own `runtime`, `kernels` and `prompts` first on the path: in a clone the repository
root, in an installed wheel `antangel_cli/_bundled` (house.md, "Import names").
"""

from __future__ import annotations

import sys
from pathlib import Path

__version__ = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent
_BUNDLED = _PACKAGE / "_bundled"

ROOT = _BUNDLED if _BUNDLED.is_dir() else _PACKAGE.parent
"""The folder that holds runtime/, kernels/, prompts/ and nano/checkpoint/."""

_OURS = ("runtime", "kernels", "prompts")


def _foreign(name: str) -> bool:
    module = sys.modules.get(name)
    places = [*getattr(module, "__path__", [])] if module else []
    return bool(places) and not any(Path(place).resolve() == ROOT / name for place in places)


def _claim_names() -> None:
    foreign = [name for name in _OURS if _foreign(name)]
    if foreign:
        raise ImportError(
            f"another package named {', '.join(foreign)} is already imported; "
            "start antangel in a process of its own, or import antangel_cli first"
        )
    if str(ROOT) in sys.path:
        sys.path.remove(str(ROOT))
    sys.path.insert(0, str(ROOT))


_claim_names()
