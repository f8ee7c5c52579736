"""A planner that is guided by a trained policy and its critics, in one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cartpole_models import contract
from small_agents import PETS, pets

from wm_ros.agents.guide import Guide
from wm_ros.agents.pets import PetsController
from wm_ros.agents.sac import SacConfig, SacController
from wm_ros.contract.errors import UserError
from wm_ros.export import controller as export
from wm_ros.export.template import export as exported
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training import guide
from wm_ros.training.config import AgentConfig
from wm_ros.training.pets_learner import PetsLearner

SAC = SacConfig(layers=1, width=8)


@pytest.fixture(scope="module")
def policy() -> SacController:
    """Random weights, and critics that are far from indifferent."""
    made = SacController(contract(), SAC)
    generator = torch.Generator().manual_seed(4)
    made.networks.policy.initialize(generator)
    made.networks.critics.initialize(generator)
    with torch.no_grad():
        made.networks.observation_mean.copy_(torch.randn(5, generator=generator))
        made.networks.critics.weights[-1].mul_(50.0)
    return made


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, policy: SacController) -> Path:
    path = tmp_path_factory.mktemp("guide") / "controller.onnx"
    export.write(path, exported(policy, contract()), policy, contract(), export.Origin(1, 0))
    return path


def guided(by: Guide) -> PetsController:
    plain = pets(0)
    made = PetsController(contract(), PETS, by)
    made.model.load_state_dict(plain.model.state_dict())
    return made


def inputs(controller: PetsController) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    carry = {name: torch.zeros(shape) for name, shape in controller.carry.items()}
    noise = {name: 1e-3 * torch.randn(spec.shape, generator=generator) for name, spec in controller.noise.items()}
    return torch.tensor([0.1, 0.6, -0.8, 0.2, -0.3]), carry, noise


def test_the_networks_of_a_policy_come_back_from_its_file_as_they_drive(artifact: Path, policy: SacController) -> None:
    by = guide.load(str(artifact), contract())
    observation = torch.tensor([0.1, 0.6, -0.8, 0.2, -0.3])
    output = ControllerSession.load(artifact, contract()).act(observation.numpy())
    assert by.action(observation.unsqueeze(0))[0].numpy() == pytest.approx(output.action, abs=1e-5)
    assert float(by.value(observation)) == pytest.approx(float(output.arrays["value"]), rel=1e-4)


def test_the_policys_own_run_is_a_candidate_and_the_critics_value_the_end_of_the_plan(artifact: Path) -> None:
    by = guide.load(str(artifact), contract())
    controller, plain = guided(by), pets(0)
    observation, carry, noise = inputs(controller)
    high, velocity = contract().action.joints[0].high, 3
    with torch.no_grad():
        # The policy stays at its limit, where draws of almost no noise never come by themselves.
        by.networks.policy.weights[-1].zero_()
        by.networks.policy.biases[-1][0, 0] = 20.0

        def end(force: float) -> torch.Tensor:
            return controller.model.rollout(observation, torch.full((3, 1, 1), force), None).observation[-1, :, 0, velocity].mean()

        # The critics prefer the end that this leads to: one unit that counts the cart's velocity.
        for parameter in by.networks.critics.parameters():
            parameter.zero_()
        by.networks.critics.weights[0][:, 0, velocity] = torch.sign(end(high) - end(0.0))
        by.networks.critics.biases[0][:, 0] = 1e3
        by.networks.critics.weights[1][:, 0, 0] = 1e3
        output = controller(observation, carry, noise)
        without = plain(observation, carry, noise)
        rolled = controller.model.rollout(observation, output["plan.action"].unsqueeze(1), None)
        expected = (rolled.reward.sum(dim=0) + by.value(rolled.observation[-1])).mean()
    assert output["plan.action"].flatten().tolist() == pytest.approx([high] * 3, abs=1e-3)
    assert without["plan.action"].abs().max() < 0.5
    assert float(output["value"]) == pytest.approx(float(expected), rel=1e-5)


def test_one_file_holds_planner_policy_and_critics_and_needs_no_other_process(artifact: Path, tmp_path: Path) -> None:
    controller = guided(guide.load(str(artifact), contract()))
    path = tmp_path / "guided.onnx"
    written = export.write(path, exported(controller, contract()), controller, contract(), export.Origin(2, 0))
    assert written.parity < 1e-3
    session = ControllerSession.load(path, contract())
    assert session.metadata.config["guide"] == {k: v for k, v in vars(SAC).items()}
    assert session.act(np.zeros(5, np.float32)).ok


def test_a_guide_of_another_agent_is_refused_by_its_file(tmp_path: Path, artifact: Path) -> None:
    plain = pets(0)
    path = tmp_path / "pets.onnx"
    export.write(path, exported(plain, contract()), plain, contract(), export.Origin(1, 0))
    config = replace(AgentConfig(pets=PETS), guide=str(path))
    with pytest.raises(UserError, match=r"pets\.onnx: a controller of agent pets"):
        PetsLearner(contract(), config, tmp_path, 0, lambda phase, fields: None)
