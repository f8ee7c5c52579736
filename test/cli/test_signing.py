"""wm-ros key and wm-ros sign."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_controller as tiny

from wm_ros.cli import main
from wm_ros.contract.errors import UserError
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import TrustedKey


def test_a_new_key_signs_controllers_that_robots_with_its_public_half_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (tiny.constant(tmp_path / f"{n}.onnx", 1.0) for n in ("one", "two"))
    assert main.run(["key", "new", str(tmp_path / "key")]) == 0
    trusted = TrustedKey.load(tmp_path / "key.pub")
    with pytest.raises(UserError, match="no signature"):
        ControllerSession.load(one, tiny.contract(), trusted=trusted)
    assert main.run(["sign", str(one), str(two), "--key", str(tmp_path / "key")]) == 0
    for path in (one, two):
        assert ControllerSession.load(path, tiny.contract(), trusted=trusted).path == path
    assert "two.onnx.sig: signs" in capsys.readouterr().out
    assert main.run(["key", "check", str(one), str(two), "--key", str(tmp_path / "key.pub")]) == 0
    two.write_bytes(one.read_bytes() + b"x")
    assert main.run(["key", "check", str(two), "--key", str(tmp_path / "key.pub")]) == 2


def test_a_second_key_in_the_same_place_and_a_missing_controller_are_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["key", "new", str(tmp_path / "key")]) == 0
    assert main.run(["key", "new", str(tmp_path / "key")]) == 2
    assert main.run(["sign", str(tmp_path / "none.onnx"), "--key", str(tmp_path / "key")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "never overwritten" in errors[0] and "none.onnx: No such file" in errors[1]
