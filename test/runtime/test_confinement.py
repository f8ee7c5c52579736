"""A path from a message leads into the configured folder, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from wm_ros.contract.errors import UserError
from wm_ros.runtime.confinement import inside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "0001").mkdir(parents=True)
    (tmp_path / "models" / "0001" / "controller.onnx").touch()
    (tmp_path / "secret").touch()
    return tmp_path / "models"


def test_a_file_below_the_folder_is_opened_also_through_a_linked_folder(folder: Path, tmp_path: Path) -> None:
    file = folder / "0001" / "controller.onnx"
    assert inside(folder, file, "model", "") == file
    (tmp_path / "link").symlink_to(folder)
    assert inside(tmp_path / "link", tmp_path / "link" / "0001" / "controller.onnx", "model", "") == file


def test_what_leads_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "link.onnx").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    neighbour = tmp_path / "models_of_others"
    for path in (
        tmp_path / "secret",
        folder / ".." / "secret",
        folder / "link.onnx",
        folder / "out" / "secret",
        neighbour / "c.onnx",
        folder,
        "/etc/passwd",
    ):
        with pytest.raises(UserError, match=r"model: .* lies outside .*: not opened; set model_folder"):
            inside(folder, path, "model", "set model_folder")


LONG = "x" * 10**5


@pytest.mark.parametrize("path", ["", "controller.onnx", "~/controller.onnx", "file:///etc/passwd", "/tmp/a\0b", LONG, f"/{LONG}"])
def test_what_is_no_absolute_path_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(UserError, match="model: "):
        inside(folder, path, "model", "")
