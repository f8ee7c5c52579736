"""The SAC controller: its actions, its value, and that it ships as one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from small_sac import SAC, arm, learner

from wm_ros.agents.sac import SacConfig, SacController
from wm_ros.export import controller as export
from wm_ros.export.template import template
from wm_ros.runtime.controller import ControllerSession


def controller(explore: bool = False, config: SacConfig = SAC) -> SacController:
    made = SacController(arm(), config, explore)
    made.networks.load_state_dict(learner(3, config).networks.state_dict())
    return made


def test_actions_are_within_the_limits_of_each_joint_and_the_value_is_the_smaller_one() -> None:
    policy = controller(explore=True)
    generator = torch.Generator().manual_seed(0)
    low, high = (torch.tensor([getattr(j, side) for j in arm().action.joints]) for side in ("low", "high"))
    seen = []
    for _ in range(100):
        observation = 10.0 * torch.randn(7, generator=generator)
        with torch.no_grad():
            result = policy(observation, {}, {"action": 3.0 * torch.randn(3, generator=generator)})
            networks = policy.networks
            action = (result["action"] - networks.action_middle) / networks.action_half
            values = networks.critics(torch.cat([networks.normalized(observation), action]).unsqueeze(0))[:, 0, 0]
        seen.append(result["action"])
        torch.testing.assert_close(result["value"], values.min(), rtol=1e-3, atol=1e-4)
    actions = torch.stack(seen)
    assert (actions >= low).all() and (actions <= high).all()
    assert (actions.min(0).values < low + 0.5).all() and (actions.max(0).values > high - 0.5).all()


def test_without_noise_the_action_is_the_mean_of_the_policy() -> None:
    observation = torch.arange(7.0)
    with torch.no_grad():
        plain = controller()(observation, {}, {})["action"]
        drawn = controller(explore=True)
        torch.testing.assert_close(drawn(observation, {}, {"action": torch.zeros(3)})["action"], plain)
        assert not torch.allclose(drawn(observation, {}, {"action": torch.ones(3)})["action"], plain)
    assert not controller().noise and drawn.noise["action"].shape == (3,)


@pytest.mark.parametrize(("explore", "layer_norm"), [(False, "none"), (True, "none"), (False, "critics"), (True, "all")])
def test_the_exported_file_acts_as_torch_does_normalizer_included(
    explore: bool, layer_norm: Literal["none", "critics", "all"], tmp_path: Path
) -> None:
    policy, contract = controller(explore, replace(SAC, layer_norm=layer_norm)), arm()
    written = export.write(tmp_path / "controller.onnx", template(policy, contract), policy, contract, export.Origin(version=2, seed=5))
    assert written.parity < 1e-4
    session = ControllerSession.load(tmp_path / "controller.onnx", contract)
    session.reset(9)
    observation = np.linspace(-2, 2, 7, dtype=np.float32)
    output = session.act(observation)
    noise = np.random.Generator(np.random.PCG64(np.random.SeedSequence(9))).standard_normal(3, dtype=np.float32)
    with torch.no_grad():
        expected = policy(torch.from_numpy(observation), {}, {"action": torch.from_numpy(noise)})
    np.testing.assert_allclose(output.action, expected["action"].numpy(), rtol=1e-4, atol=1e-5)
    assert output.value == pytest.approx(float(expected["value"]), rel=1e-3, abs=1e-4)
