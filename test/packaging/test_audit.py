"""An audit that could not be made never looks like one that found nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {"name": "numpy", "version": "2.0", "vulns": []}
BAD: dict[str, Any] = {"name": "torch", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNKNOWN: dict[str, Any] = {"name": "onnx", "skip_reason": "Dependency not found on PyPI and could not be audited: onnx (1.0)"}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([GOOD], 0, "1 packages, no known vulnerability"),
        ([GOOD, BAD], 1, "torch 1.0: PYSEC-1, fixed in 1.1"),
        ([GOOD, BAD, UNKNOWN], 2, "not audited, since the advisory service does not know them: onnx"),
        ([UNKNOWN], 2, "knows none of the packages"),
    ],
)
def test_only_a_whole_audit_without_a_finding_passes(audit: ModuleType, packages: list[dict[str, Any]], status: int, words: str) -> None:
    lines, found = audit.verdict(packages)
    assert found == status and words in "\n".join(lines)


def test_a_service_that_cannot_be_reached_is_named(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text("#!/bin/sh\necho 'requests.exceptions.ConnectionError: no route to pypi.org' >&2\nexit 1\n")
    tool.chmod(0o755)
    assert audit.main(str(tool), "constraints.txt") == 2
    assert capsys.readouterr().err == (
        "error: no audit, the advisory service could not be asked: requests.exceptions.ConnectionError: no route to pypi.org\n"
    )
