"""References to functions resolve to installed packages only, and are checked before they are called."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.contract.resources import share_directory


def contract(**reward: Any) -> schema.Contract:
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    data["reward"] = {**data["reward"], **reward}
    return schema.parse(data, "test")


@pytest.mark.parametrize("reference", ["/tmp/mine.py:reward", "mine.py", "./mine:reward", "a b:reward", "mine:reward()", "os:system;x"])
def test_a_path_or_code_is_no_reference(reference: str) -> None:
    with pytest.raises(UserError, match=r"reward\.function"):
        contract(function=reference)


def test_a_module_in_the_working_directory_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "loaded"
    (tmp_path / "my_local_reward.py").write_text(f"open({str(trace)!r}, 'w')\ndef reward(o, a, n): return 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="'my_local_reward' is not an installed package: install it with pip"):
        reward_function(contract(function="my_local_reward:reward", parameters={}))
    assert not trace.exists()


@pytest.mark.parametrize("reference", ["os:system", "subprocess:run", "builtins:eval"])
def test_the_standard_library_is_no_package_of_functions(reference: str) -> None:
    with pytest.raises(UserError, match="is not an installed package"):
        reward_function(contract(function=reference, parameters={}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"function": "wm_ros.contract.rewards:nothing"}, "nothing"),
        ({"function": "wm_ros.contract.nowhere:reward"}, "nowhere"),
        ({"function": "wm_ros.contract.rewards:_LOG_VALUE_AT_MARGIN"}, "is not a function"),
        ({"parameters": {}}, "force_limit"),
        ({"parameters": {"force_limit": 10.0, "colour": 1.0}}, "colour"),
    ],
)
def test_a_reference_that_does_not_fit_is_explained(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        reward_function(contract(**changes))


def test_the_scale_multiplies_the_reward() -> None:
    step = np.array([0.1, 0.0, 1.0, 0.2, 0.3]), np.array([4.0]), np.array([0.1, 0.0, 1.0, 0.2, 0.3])
    assert reward_function(contract(scale=3.0))(*step) == pytest.approx(3.0 * reward_function(contract(scale=1.0))(*step))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "has no limits"),
        ({"slider.position": 1.0}, "does not end in .low or .high"),
        ({"slider.positoin.low": 1.0}, r"no column 'slider.positoin'; there are .*slider.position"),
    ],
)
def test_limits_of_a_termination_that_do_not_fit_are_explained(parameters: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=rf"termination: wm_ros.contract.rewards:outside: .*{words}.*correct its parameters"):
        termination_function(ending(parameters))


def test_an_episode_terminates_where_any_column_reaches_its_limit() -> None:
    ended = termination_function(ending({"slider.position.low": -1.0, "slider.position.high": 1.5, "slider.velocity.high": 2.0}))
    assert ended is not None
    position, velocity = np.array([0.0, -1.0, -0.99, 1.5, 0.0, np.nan]), np.array([0.0, 0.0, 0.0, 0.0, 2.1, 0.0])
    after = np.stack([position, 0 * position, 0 * position, velocity, 0 * position], axis=-1)
    np.testing.assert_array_equal(ended(after, after[:, :1], after), [False, True, False, True, True, False])


def ending(parameters: dict[str, float]) -> schema.Contract:
    data = yaml.safe_load((share_directory() / "config/contracts/cartpole_swingup.yaml").read_text())
    return schema.parse({**data, "termination": {"function": "wm_ros.contract.rewards:outside", "parameters": parameters}}, "test")


def test_a_contract_without_termination_has_none() -> None:
    assert termination_function(contract()) is None


def test_a_column_that_the_contract_lacks_is_named() -> None:
    from wm_ros.contract.columns import Columns

    columns = Columns(np.zeros((3, 2)), ["a", "b"])
    with pytest.raises(KeyError, match="no column 'c'; there are"):
        columns["c"]
    with pytest.raises(ValueError, match="2 columns, 1 names"):
        Columns(np.zeros((3, 2)), ["a"])
