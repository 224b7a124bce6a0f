"""Print the development requirements of pyproject.toml, for a pip that does not know dependency groups."""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    sys.stdout.write(" ".join(project["dependency-groups"]["dev"]))
