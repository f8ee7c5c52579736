"""Plans in the latent space: what is imagined is what the model does, the best plan is taken, and the file plans as torch does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_dreamer import config, fit, paid_batch
from small_sac import arm

from wm_ros.agents.dreamer import DreamerConfig
from wm_ros.agents.planet import LatentPlanner, PlanetController, controller_of
from wm_ros.export import controller as export
from wm_ros.export.template import template
from wm_ros.models.rssm import State
from wm_ros.models.rssm_planning import LatentModel
from wm_ros.planners.cem import CEMConfig
from wm_ros.runtime.controller import ControllerSession
from wm_ros.training.dreamer_learner import V1_FIT, DreamerLearner

CEM = CEMConfig(horizon=4, candidates=40, iterations=1, elites=8, initial_std=1.0)


def planning(version: str = "v3") -> DreamerConfig:
    return replace(config(version), act="planner", planner=CEM)


def controller(version: str = "v3") -> PlanetController:
    made = controller_of(arm(), planning(version))
    assert isinstance(made, PlanetController)
    generator = torch.Generator().manual_seed(5)
    made.networks.initialize(generator)
    # Untrained it expects no reward anywhere, and one plan is as good as another.
    made.networks.world.reward_head.output.weight.data.normal_(generator=generator)
    return made


@torch.no_grad()
@pytest.mark.parametrize("version", ["v1", "v3"])
def test_a_rollout_is_the_model_step_by_step(version: str) -> None:
    networks = controller(version).networks
    model, rssm, generator = LatentModel(networks.world, networks.to_half_ranges), networks.world.rssm, torch.Generator().manual_seed(0)
    feature = torch.randn(networks.world.feature_size, generator=generator)
    actions, noise = torch.randn((3, 5, 3), generator=generator), torch.randn((3, 4), generator=generator)
    imagined = model.rollout(feature, actions, noise)
    draws = 0.5 * (1.0 + torch.erf(noise / 2.0**0.5)) if version == "v3" else noise
    for n in range(5):
        state, alive = State(feature[None, :24], feature[None, 24:]), torch.ones(())
        for h in range(3):
            action = networks.to_half_ranges(actions[h, n : n + 1]).clamp(-1.0, 1.0)
            state = rssm.imagine_step(state, action, draws[h : h + 1])
            alive = alive * networks.world.going_on(state.feature)[0]
            torch.testing.assert_close(imagined.observation[h, 0, n], state.feature[0])
            reward = networks.world.reward_kind.steady_mean(networks.world.reward_head(state.feature))
            torch.testing.assert_close(imagined.reward[h, 0, n], reward[0])
            torch.testing.assert_close(imagined.going_on[h, 0, n], alive)


@torch.no_grad()
def test_one_step_without_noise_is_the_first_of_a_rollout_without_noise() -> None:
    networks = controller().networks
    model, generator = LatentModel(networks.world, networks.to_half_ranges), torch.Generator().manual_seed(1)
    feature, action = torch.randn(networks.world.feature_size, generator=generator), torch.rand((6, 3), generator=generator)
    step, imagined = model.step(feature.expand(6, -1), action), model.rollout(feature, action.unsqueeze(0), None)
    torch.testing.assert_close(step.observation, imagined.observation[0, 0])
    torch.testing.assert_close(step.reward, imagined.reward[0, 0])


def test_a_model_that_has_learned_what_is_rewarded_plans_it() -> None:
    adam = replace(V1_FIT.optimizer, warm_up=0)
    trained = DreamerLearner(arm(), planning(), replace(fit(), learning_rate=5e-3, optimizer=adam), torch.Generator().manual_seed(0))
    before = trained.optimizers["actor"].values.clone()
    generator = torch.Generator().manual_seed(4)
    for _ in range(100):
        trained.update(paid_batch(trained, generator), trained.draw_noise(generator))
    assert torch.equal(trained.optimizers["actor"].values, before)
    plan = LatentPlanner(arm(), replace(planning(), planner=replace(CEM, iterations=6, candidates=200)), trained.networks)
    start, plans = trained.networks.world.rssm.start(1).feature[0], []
    with torch.no_grad():
        for _ in range(5):
            plans.append(plan(start, {name: torch.randn(shape, generator=generator) for name, shape in plan.noise.items()}))
    first = trained.networks.to_half_ranges(torch.stack([found.actions for found in plans]))[..., 0]
    assert first.mean() > 0.3 and all(found.value > 0.0 for found in plans)


def test_the_file_plans_as_torch_does(tmp_path: Path) -> None:
    policy, contract = controller(), arm()
    path = tmp_path / "controller.onnx"
    written = export.write(path, template(policy, contract), policy, contract, export.Origin(version=1, seed=5))
    assert written.parity < 1e-3
    session = ControllerSession.load(path, contract)
    session.reset(3)
    output = session.act(np.ones(7, np.float32))
    assert output.ok and output.plan_action is not None and output.plan_action.shape == (4, 3)
    assert output.plan_observation is not None and output.plan_observation.shape == (4, 7)
    low, high = (np.array([getattr(j, side) for j in contract.action.joints]) for side in ("low", "high"))
    assert (output.action >= low).all() and (output.action <= high).all()
