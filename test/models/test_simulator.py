"""The true simulator as a world model is the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from wm_ros.contract import rewards, schema
from wm_ros.contract.columns import Columns
from wm_ros.contract.errors import UserError
from wm_ros.contract.functions import reward_function
from wm_ros.contract.resources import share_directory
from wm_ros.contract.schema import Contract
from wm_ros.models.simulator import SimulatorModel
from wm_ros.models.world_model import WorldModel
from wm_ros.planners.icem import ICEM, ICEMConfig
from wm_ros.sim.sensors import read_channels
from wm_ros.sim.simulator import Simulator

NAMES = ("cartpole_swingup", "pendulum_swingup", "reacher_two_link", "cheetah_run")


def changed(name: str, **fields: Any) -> Contract:
    data = yaml.safe_load((share_directory() / f"config/contracts/{name}.yaml").read_text())
    return schema.parse({**data, **fields}, "test")


def observed(contract: Contract, robot: Simulator) -> np.ndarray:
    """The observation in float64, before the contract's assembler makes it float32."""
    joints, values = robot.joints(), []
    for feature in (f for c in contract.observation for f in c.features):
        value = getattr(joints, feature.field)[joints.names.index(feature.joint)]
        values += [np.sin(value), np.cos(value)] if feature.encoding == "sin_cos" else [value]
    return np.array(values)


def limits(contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array([getattr(j, end) for j in contract.action.joints]) for end in ("low", "high"))


def random_actions(contract: Contract, horizon: int, candidates: int, seed: int = 0) -> np.ndarray:
    low, high = limits(contract)
    return np.random.default_rng(seed).uniform(low, high, (horizon, candidates, len(low)))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_rollout_is_the_simulator_stepped_tick_by_tick(name: str, stride: int) -> None:
    contract = schema.load(name)
    robot, reward = Simulator(contract), reward_function(contract)
    actions = random_actions(contract, 40, 3)
    robot.reset(np.random.SeedSequence(4))
    start = observed(contract, robot)
    imagined = SimulatorModel(contract, stride, threads=2).rollout(torch.from_numpy(start), torch.from_numpy(actions), None)
    assert imagined.observation.shape == (40, 1, 3, contract.observation_size) and imagined.reward.shape == (40, 1, 3)
    assert imagined.observation.dtype == torch.float64 and imagined.going_on is None
    for n in range(3):
        robot.reset(np.random.SeedSequence(4))
        for h in range(40):
            total = 0.0
            for _ in range(stride):
                before = observed(contract, robot)
                robot.command(actions[h, n])
                robot.step_tick()
                total += float(reward(before, actions[h, n], observed(contract, robot)))
            np.testing.assert_allclose(imagined.observation[h, 0, n], observed(contract, robot), rtol=0, atol=1e-10)
            assert float(imagined.reward[h, 0, n]) == pytest.approx(total, abs=1e-9)
    assert robot.holds == 0 and float(imagined.observation[-1].std(dim=1).max()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_a_rollout_of_one_from_every_state(name: str) -> None:
    contract = schema.load(name)
    model = SimulatorModel(contract, 2, threads=1)
    actions = torch.from_numpy(random_actions(contract, 6, 1)).float()
    robot = Simulator(contract)
    robot.reset(np.random.SeedSequence(0))
    start = torch.from_numpy(observed(contract, robot)).float()
    path = model.rollout(start, actions, None)
    states = torch.cat([start.unsqueeze(0), path.observation[:-1, 0, 0]])
    step = model.step(states, actions[:, 0])
    # A rollout keeps its state in float64 between steps; a step starts from float32.
    torch.testing.assert_close(step.observation, path.observation[:, 0, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(step.reward, path.reward[:, 0, 0], rtol=1e-3, atol=1e-3)
    assert step.observation.dtype == torch.float32 and step.going_on is None
    alone = model.step(states[2:3], actions[2])
    assert torch.equal(alone.observation[0], step.observation[2]) and torch.equal(alone.reward[0], step.reward[2])


def test_the_number_of_threads_changes_nothing() -> None:
    contract = schema.load("cheetah_run")
    actions = torch.from_numpy(random_actions(contract, 5, 33)).float()
    start = torch.zeros(18)
    one, three = (SimulatorModel(contract, 2, threads=threads).rollout(start, actions, None) for threads in (1, 3))
    assert torch.equal(one.observation, three.observation) and torch.equal(one.reward, three.reward)


def test_a_rollout_leaves_nothing_behind() -> None:
    contract = schema.load("cheetah_run")
    model = SimulatorModel(contract, threads=1)
    actions = torch.from_numpy(random_actions(contract, 8, 4)).float()
    first = model.rollout(torch.zeros(18), actions, None)
    model.rollout(torch.full((18,), 0.3), -actions, None)
    assert torch.equal(first.observation, model.rollout(torch.zeros(18), actions, None).observation)


def test_an_angle_comes_from_its_sine_and_cosine() -> None:
    model = SimulatorModel(schema.load("pendulum_swingup"))
    angles = np.array([-3.0, -1.0, 0.0, 0.5, 3.1])
    states = model.states(np.stack([np.sin(angles), np.cos(angles), 2 * angles], axis=1))
    np.testing.assert_allclose(states, np.stack([0 * angles, angles, 2 * angles], axis=1), atol=1e-15)


def test_an_unstable_candidate_is_nan_and_the_others_are_not() -> None:
    contract = schema.load("pendulum_swingup")
    model = SimulatorModel(contract, 2, threads=2)
    observation = torch.tensor([[0.0, -1.0, 0.0], [0.0, -1.0, 1e15], [0.0, torch.nan, 0.0], [0.0, -1.0, 1.0]])
    step = model.step(observation, torch.zeros(4, 1))
    assert torch.isnan(step.observation).all(dim=1).tolist() == [False, True, True, False]
    assert torch.isnan(step.reward).tolist() == [False, True, True, False]
    lost = model.rollout(observation[1], torch.zeros(3, 2, 1), None)
    assert bool(torch.isnan(lost.observation).all()) and bool(torch.isnan(lost.reward).all())


@pytest.mark.parametrize("push", [9e9, 1e13, np.nan])
def test_an_instability_on_the_way_is_nan_from_there_on(tmp_path: Path, push: float) -> None:
    mjcf = (share_directory() / "sim/pendulum.xml").read_text().replace('ctrllimited="true" ctrlrange="-1 1"', "")
    (tmp_path / "unlimited.xml").write_text(mjcf)
    data = schema.load("pendulum_swingup").model_dump(mode="json")
    data["simulator"]["mjcf"] = "unlimited.xml"
    model = SimulatorModel(schema.parse(data, "test"), threads=1, beside=tmp_path)
    pushes = torch.zeros(6, 2, 1)
    pushes[3, 1] = push
    imagined = model.rollout(torch.tensor([0.0, -1.0, 0.0]), pushes, None)
    assert torch.isnan(imagined.reward[:, 0]).tolist() == [[False, h >= 3] for h in range(6)]
    assert torch.isnan(imagined.observation[:, 0]).any(dim=-1).tolist() == [[False, h >= 3] for h in range(6)]


def test_a_termination_ends_the_reward_within_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "one", lambda o, a, n: 0.0 * n["slider.position"] + 1.0, raising=False)
    monkeypatch.setattr(rewards, "off", lambda o, a, n, *, limit: n["slider.position"] > limit, raising=False)
    contract = changed(
        "cartpole_swingup",
        reward={"function": "wm_ros.contract.rewards:one"},
        termination={"function": "wm_ros.contract.rewards:off", "parameters": {"limit": 0.1}},
    )
    robot, ticks = Simulator(contract), 0
    robot.set_state({}, {})
    while robot.joints().position[0] <= 0.1:
        robot.command(np.array([10.0]))
        robot.step_tick()
        ticks += 1
    stride = ticks - 2  # it ends amid the second step
    model = SimulatorModel(contract, stride, threads=1)
    start = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    imagined = model.rollout(start, torch.full((3, 1, 1), 10.0), None)
    assert imagined.reward.flatten().tolist() == [stride, 2.0, 0.0]
    assert imagined.going_on is not None and imagined.going_on.flatten().tolist() == [1.0, 0.0, 0.0]
    step = SimulatorModel(contract, ticks + 5, threads=1).step(start.unsqueeze(0), torch.tensor([[10.0]]))
    assert step.reward.tolist() == [ticks] and step.going_on is not None and step.going_on.tolist() == [0.0]


def test_effort_readings_are_the_simulators() -> None:
    data = schema.load("cartpole_swingup").model_dump(mode="json")
    data["observation"][0]["features"].append({"joint": "slider", "field": "effort", "units": "N"})
    contract = schema.parse(data, "test")
    robot = Simulator(contract)
    robot.set_state({"hinge_1": 1.0}, {})
    imagined = SimulatorModel(contract, threads=1).rollout(torch.from_numpy(observed(contract, robot)), torch.tensor([[[4.0]]]), None)
    robot.command(np.array([4.0]))
    robot.step_tick()
    assert read_channels(contract, robot, 0)["joints"].effort[0] == pytest.approx(4.0)
    np.testing.assert_allclose(imagined.observation[0, 0, 0], observed(contract, robot), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("joint", "field"), [("rootx", "position"), ("ffoot", "velocity")])
def test_a_joint_that_is_not_observed_is_named(joint: str, field: str) -> None:
    data = schema.load("cheetah_run").model_dump(mode="json")
    features = data["observation"][0]["features"]
    data["observation"][0]["features"] = [f for f in features if (f["joint"], f["field"]) != (joint, field)]
    with pytest.raises(UserError, match=rf"contract cheetah_run: observation: the {field} of joint '{joint}' is not observed"):
        SimulatorModel(schema.parse(data, "test"))


def test_a_joint_that_no_joint_state_can_tell_is_named(tmp_path: Path) -> None:
    mjcf = (share_directory() / "sim/pendulum.xml").read_text()
    ball = '<body name="ball" pos="1 0 1"><joint name="loose" type="ball"/><geom size="0.1" mass="1"/></body></worldbody>'
    (tmp_path / "ball.xml").write_text(mjcf.replace("</worldbody>", ball))
    data = schema.load("pendulum_swingup").model_dump(mode="json")
    data["simulator"]["mjcf"] = "ball.xml"
    with pytest.raises(UserError, match="joint 'loose' neither slides nor turns"):
        SimulatorModel(schema.parse(data, "test"), beside=tmp_path)


def test_an_actuator_with_a_state_of_its_own_is_refused(tmp_path: Path) -> None:
    mjcf = (share_directory() / "sim/pendulum.xml").read_text()
    slow = '<general name="torque" joint="hinge" dyntype="filter" dynprm="0.1"/>'
    (tmp_path / "slow.xml").write_text(mjcf.split("<motor")[0] + slow + "</actuator></mujoco>")
    data = schema.load("pendulum_swingup").model_dump(mode="json")
    data["simulator"]["mjcf"] = "slow.xml"
    with pytest.raises(UserError, match="an actuator has a state of its own"):
        SimulatorModel(schema.parse(data, "test"), beside=tmp_path)


def test_a_command_that_runs_out_within_a_tick_is_refused() -> None:
    safety = schema.load("cartpole_swingup").safety.model_dump(mode="json")
    with pytest.raises(UserError, match=r"safety\.command_timeout_s: shorter than a control period"):
        SimulatorModel(changed("cartpole_swingup", safety={**safety, "command_timeout_s": 0.01}))


def test_a_contract_without_a_simulator_is_refused() -> None:
    with pytest.raises(UserError, match="has no 'simulator'"):
        SimulatorModel(changed("cartpole_swingup", simulator=None))


def test_it_says_that_it_cannot_be_exported_nor_differentiated() -> None:
    model = SimulatorModel(schema.load("pendulum_swingup"), threads=1)

    class Rollout(nn.Module):
        def forward(self, observation: Tensor, actions: Tensor) -> Tensor:
            return model.rollout(observation, actions, None).reward

    with pytest.raises(UserError, match="cannot be exported"):
        torch.export.export(Rollout(), (torch.zeros(3), torch.zeros(2, 4, 1)), strict=False)
    with pytest.raises(UserError, match="has no gradients"):
        model.rollout(torch.tensor([0.0, 1.0, 0.0]), torch.zeros(2, 4, 1, requires_grad=True), None)


def test_wrong_sizes_fail_at_the_door_with_both_shapes() -> None:
    model: WorldModel = SimulatorModel(schema.load("cheetah_run"), threads=1)
    with pytest.raises(ValueError, match=r"\(17,\), actions \(2, 4, 6\): contract cheetah_run has 18 observations and 6 actions"):
        model.rollout(torch.zeros(17), torch.zeros(2, 4, 6), None)
    with pytest.raises(ValueError, match="stride 0"):
        SimulatorModel(schema.load("cheetah_run"), 0)
    with pytest.raises(ValueError, match="threads 0"):
        SimulatorModel(schema.load("cheetah_run"), threads=0)


def test_what_a_plan_imagines_is_what_then_happens() -> None:
    contract = schema.load("cartpole_swingup")
    model = SimulatorModel(contract, 2, threads=1)
    low, high = (torch.from_numpy(end).float() for end in limits(contract))
    planner = ICEM(ICEMConfig(horizon=10, candidates=12, elites=4, kept=2), low, high)
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(shape, generator=generator) for name, shape in planner.noise_shapes(model).items()}
    robot = Simulator(contract)
    robot.reset(np.random.SeedSequence(1))
    start = torch.from_numpy(observed(contract, robot)).float()
    plan = planner(model, start, {name: torch.zeros(shape) for name, shape in planner.carry_shapes().items()}, noise)
    for h in range(10):
        for _ in range(2):
            robot.command(plan.actions[h].numpy())
            robot.step_tick()
        np.testing.assert_allclose(plan.observations[h], observed(contract, robot), rtol=1e-3, atol=1e-3)
    assert Columns(plan.observations, contract.observation_names)["slider.position"].abs().max() > 1e-3
