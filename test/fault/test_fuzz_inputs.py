"""What `make fuzz` once found stays found, and a few hundred hostile inputs more."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import tiny_controller
from fault import fuzz_inputs

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.resources import share_directory
from wm_ros.runtime.confinement import inside
from wm_ros.runtime.onnx_check import check_self_contained


def test_hostile_inputs_give_an_object_or_one_clear_error(tmp_path: Path) -> None:
    outcomes, _ = fuzz_inputs.run(150, 7, tmp_path)
    assert sum(outcomes.values()) == 150
    assert {f"{kind} refused" for kind in fuzz_inputs.WEIGHTS} <= set(outcomes) and "path taken" in outcomes


@pytest.mark.parametrize("scalar", ["9" * 5000, "!!timestamp 1", "2026-99-99", "!!float x"])
def test_a_scalar_that_yaml_cannot_build_is_a_fault_of_the_file(tmp_path: Path, scalar: str) -> None:
    text = (share_directory() / "config/contracts/cartpole_swingup.yaml").read_text().replace("rate_hz: 50", f"rate_hz: {scalar}")
    assert scalar in text
    (tmp_path / "contract.yaml").write_text(text)
    with pytest.raises(UserError, match=r"contract\.yaml: not readable as YAML"):
        schema.load(tmp_path / "contract.yaml")


def test_a_loop_of_links_hides_no_way_out_of_the_folder(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "out").symlink_to("/")
    (models / "loop").symlink_to(models / "loop")
    with pytest.raises(UserError, match=r"a loop of links|lies outside"):
        inside(models, models / "loop/../out/etc", "model", "no")


def test_a_name_in_a_controller_that_is_no_text_is_a_corrupt_file(tmp_path: Path) -> None:
    data = tiny_controller.constant(tmp_path / "c.onnx").read_bytes()
    damaged = data.replace(b"\n\x06action", b"\n\x06\xffction")
    assert onnx.load_model_from_string(damaged).graph.output[0].name != "action"
    with pytest.raises(UserError, match="corrupt"):
        check_self_contained(damaged, "c.onnx")
