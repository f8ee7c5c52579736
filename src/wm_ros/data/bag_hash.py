"""The identity of a bag, as controllers name what they have learned from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def bag_hash(path: Path) -> str:
    """SHA-256 over the names and contents of a bag's files; it stands in the controllers learned from it."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(json.dumps(file.name).encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
