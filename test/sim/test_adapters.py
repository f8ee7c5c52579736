"""Tasks of other packages as contracts and worlds."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import yaml

from wm_ros.contract import schema
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function, termination_function
from wm_ros.sim import adapters, world
from wm_ros.sim.episode import drive
from wm_ros.sim.fleet import Fleet

pytest.importorskip("dm_control")
pytest.importorskip("gymnasium")

WALKER, HOPPER = "dm_control/walker_walk", "gymnasium/Hopper-v5"


def actions(contract: schema.Contract, count: int) -> np.ndarray:
    low, high = (np.array([getattr(j, side) for j in contract.action.joints]) for side in ("low", "high"))
    return np.random.default_rng(0).uniform(low, high, (count, len(low))).astype(np.float32)


def test_a_dm_control_task_has_named_columns_joints_limits_and_its_own_length() -> None:
    contract = adapters.contract_of(WALKER)
    assert contract.observation_names[:2] == ("orientations[0]", "orientations[1]") and "height" in contract.observation_names
    assert contract.observation_size == 24 and contract.action.names[0] == "right_hip"
    assert all((j.low, j.high) == (-1.0, 1.0) for j in contract.action.joints)
    assert (contract.control.rate_hz, contract.episode_ticks) == (20.0, 500) and contract.termination is None
    assert adapters.contract_of(WALKER, repeat=1).episode_ticks == 1000


def test_a_gymnasium_task_has_named_columns_joints_limits_and_its_own_length() -> None:
    contract = adapters.contract_of(HOPPER)
    assert contract.observation_names == (*(f"qpos[{i}]" for i in range(5)), *(f"qvel[{i}]" for i in range(6)))
    assert contract.action.names == ("thigh_joint", "leg_joint", "foot_joint")
    assert contract.control.rate_hz == pytest.approx(125.0) and contract.episode_ticks == 1000 and contract.termination is not None


@pytest.mark.parametrize("name", [WALKER, "gymnasium/Pendulum-v1"])
def test_a_contract_goes_through_yaml_and_json_with_its_hash(name: str) -> None:
    contract = adapters.contract_of(name)
    again = schema.parse(yaml.safe_load(yaml.safe_dump(contract.model_dump(mode="json"))), "yaml")
    assert again.hash == contract.hash == schema.from_json(contract.canonical_json(), "json").hash
    assert again.observation_names == contract.observation_names
    assert adapters.contract_of(name).hash == contract.hash


def test_labels_leave_the_hash_of_other_contracts_alone() -> None:
    assert "label" not in schema.load("cartpole_swingup").canonical_json()


def test_dm_control_steps_and_rewards_are_the_packages_own() -> None:
    from dm_control import suite

    contract = adapters.contract_of(WALKER)
    given, robot = actions(contract, 20), world.make(contract)
    first = robot.reset(np.random.SeedSequence(4))
    theirs = suite.load("walker", "walk", task_kwargs={"random": int(np.random.SeedSequence(4).generate_state(1)[0])})
    observation = theirs.reset().observation
    np.testing.assert_array_equal(first, np.concatenate([np.ravel(o) for o in observation.values()]).astype(np.float32))
    for action in given:
        ours = robot.step(action)
        steps = [theirs.step(action), theirs.step(action)]
        assert ours.reward == pytest.approx(sum(s.reward for s in steps))
        flat = np.concatenate([np.ravel(o) for o in steps[-1].observation.values()]).astype(np.float32)
        np.testing.assert_array_equal(ours.observation, flat)


def test_gymnasium_steps_rewards_and_falls_are_the_packages_own() -> None:
    import gymnasium

    contract = adapters.contract_of(HOPPER)
    episode = drive(world.make(contract), _in_turn(actions(contract, 1000)), seed=2)
    theirs = gymnasium.make("Hopper-v5")
    theirs.reset(seed=int(np.random.SeedSequence([2, 1]).generate_state(1)[0]))
    for k, action in enumerate(actions(contract, 1000)[: len(episode)]):
        observation, reward, terminated, _, _ = theirs.step(action)
        np.testing.assert_array_equal(episode.observation[k + 1], observation.astype(np.float32))
        assert episode.reward[k] == pytest.approx(reward, rel=1e-5) and bool(episode.terminated[k]) == terminated
    assert len(episode) < 200 and episode.terminated[-1] and not episode.truncated


def _in_turn(rows: np.ndarray):  # type: ignore[no-untyped-def]
    left = iter(rows)
    return lambda observation: next(left)


def test_an_environments_own_time_limit_cuts_and_does_not_terminate() -> None:
    contract = adapters.contract_of("gymnasium/Pendulum-v1")
    episode = drive(world.make(contract), lambda observation: np.zeros(1), 300)
    assert len(episode) == 200 and episode.truncated and not episode.terminated.any()


def test_an_environment_restored_goes_on_bit_for_bit() -> None:
    contract = adapters.contract_of(WALKER)
    given = actions(contract, 30)
    first, second = Fleet([world.make(contract)], 1), Fleet([world.make(contract)], 1)
    for action in given[:15]:
        first.step(action[None])
    second.restore(first.state())
    for action in given[15:]:
        ours, theirs = first.step(action[None]), second.step(action[None])
        np.testing.assert_array_equal(ours.next_observation, theirs.next_observation)
        assert ours.reward == theirs.reward


@pytest.mark.parametrize("task", ["Hopper-v5", "Walker2d-v5", "Ant-v5"])
def test_models_know_where_a_walker_has_fallen_as_the_environment_does(task: str) -> None:
    contract = adapters.contract_of(f"gymnasium/{task}")
    fallen = termination_function(contract)
    assert fallen is not None
    robot, random, ends = world.make(contract), np.random.default_rng(0), 0
    low, high = (np.array([getattr(j, side) for j in contract.action.joints]) for side in ("low", "high"))
    for k in range(20):
        before = robot.reset(np.random.SeedSequence([0, k]))
        for _ in range(300):
            action = random.uniform(low, high).astype(np.float32)
            tick = robot.step(action)
            assert bool(fallen(before, action, tick.observation)) == tick.terminated
            ends, before = ends + tick.terminated, tick.observation
            if tick.terminated:
                break
    assert ends > 3


def test_to_models_the_environments_reward_and_an_end_that_has_no_range_are_learned() -> None:
    contract = adapters.contract_of("gymnasium/InvertedPendulum-v5")
    assert contract.reward.learned and contract.termination is not None and contract.termination.learned
    with pytest.raises(UserError, match="reward: it is learned"):
        reward_function(contract)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("walker_walk", "expected dm_control/DOMAIN_TASK or gymnasium/NAME"),
        ("dm_control/walker_wlak", "near it are walker_walk"),
        ("gymnasium/Hoper-v5", "near it are Hopper-v5"),
        ("gymnasium/CartPole-v1", "not a box of numbers"),
    ],
)
def test_what_cannot_be_adapted_is_said(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        adapters.contract_of(name)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError, match=r"gymnasium is not installed.*pip install 'wm_ros\[envs\]'"):
        adapters.contract_of(HOPPER)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"environment": True}, "expected a name"),
        ({"environment": WALKER, "repeat": 1.5}, "a whole number"),
        ({"environment": "dm_control/walker_run"}, ""),
        ({"environment": "dm_control/cheetah_run"}, "make the contract anew"),
    ],
)
def test_a_contract_that_does_not_fit_its_environment_is_refused(parameters: dict[str, object], said: str) -> None:
    data = adapters.contract_of(WALKER).model_dump(mode="json")
    contract = schema.parse({**data, "reward": {**data["reward"], "parameters": parameters}}, "test")
    if said:
        with pytest.raises(UserError, match=said):
            world.make(contract)
    else:  # another task of the same body fits
        assert world.make(contract).frames_per_tick == 1
