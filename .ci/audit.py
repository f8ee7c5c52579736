"""Holds pinned packages against published advisories with pip-audit, and says so where it could not be done.

pip-audit alone calls packages that its advisory service does not know "skipped" and ends with status 0, also where it knows none of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def verdict(packages: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
    """What to print, and the exit status: 0 only where every package was looked up and none has an advisory.

    Args:
        packages: `dependencies` of pip-audit's JSON.
    """
    known = [p for p in packages if "skip_reason" not in p]
    unknown = sorted({p["name"] for p in packages if "skip_reason" in p})
    lines = [
        f"{p['name']} {p['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'no version yet'}"
        for p in known
        for v in p["vulns"]
    ]
    status = int(bool(lines))
    if not known:
        return ["error: the advisory service knows none of the packages: is this PyPI itself, or a mirror without advisories?"], 2
    if unknown:
        lines.append(f"error: not audited, since the advisory service does not know them: {', '.join(unknown)}")
        status = 2
    return lines or [f"{len(known)} packages, no known vulnerability"], status


def main(tool: str, requirements: str) -> int:
    """Runs pip-audit and judges what it found."""
    command = [tool, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "-r", requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"pip-audit ended with status {done.returncode}")
        print(f"error: no audit, the advisory service could not be asked: {last[:300]}", file=sys.stderr)
        return 2
    lines, status = verdict(packages)
    print("\n".join(lines), file=sys.stderr if status else sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
