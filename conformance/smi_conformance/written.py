"""YAML files of users, read so that what is wrong with them is told with the file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read(path: Path) -> Any:
    """Read one document; of mistakes in it PyYAML would otherwise say that they are in a unicode string."""
    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    loader.name = path.name
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
