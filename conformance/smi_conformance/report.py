"""stub"""
from pathlib import Path
from typing import Any
def build(run: Any) -> Any: return {}
def write(r: Any, path: Path) -> None: pass
