"""The level of disagreement that ships with a controller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from cartpole_models import contract
from small_agents import PETS

from wm_ros.agents.pets import dynamics
from wm_ros.models.dynamics import ObservationDynamics
from wm_ros.runtime.calibrated_level import Level
from wm_ros.runtime.disagreement import disagreement
from wm_ros.training.calibration import QUANTILE, calibrate, disagreements
from wm_ros.training.open_loop import EpisodeColumns, windows

STEPS = 4


def model(seed: int = 0) -> ObservationDynamics:
    made = dynamics(contract(), PETS, planning=True)
    made.network.initialize(torch.Generator().manual_seed(seed))
    return made


def episode(seed: int, ticks: int = 40) -> EpisodeColumns:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ticks + 1, 5)).astype(np.float32), rng.uniform(-10, 10, (ticks, 1)).astype(np.float32)


def test_disagreement_on_records_is_what_the_robot_measures_of_a_plan_with_these_actions() -> None:
    ensemble = model()
    given = windows([episode(1)], STEPS, ensemble.stride, 5)
    assert given is not None
    held = np.repeat(given.actions[:, :, :1], ensemble.stride, axis=2)  # a plan holds one action for a model step
    given = replace(given, actions=held)
    found = disagreements(ensemble, given)
    scale = ensemble.observation_std.double().numpy()
    for b in range(len(given.start)):
        with torch.no_grad():
            imagined = ensemble.rollout(torch.from_numpy(given.start[b]), torch.from_numpy(held[:, b : b + 1, 0]), None)
        spread = imagined.observation[:, :, 0].std(dim=1, correction=0).numpy()
        np.testing.assert_allclose(found[b], disagreement(spread, scale), rtol=1e-4)


def test_the_level_is_the_quantile_over_the_stretches_and_says_what_it_was_taken_from() -> None:
    ensemble = model()
    episodes = [episode(1), episode(2)]
    given = windows(episodes, STEPS, ensemble.stride, 50)
    assert given is not None
    entry = calibrate(ensemble, episodes, STEPS, held_out=True)
    level = Level.model_validate(entry)
    found = disagreements(ensemble, given)
    assert level.level == np.quantile(found, QUANTILE) and level.windows == len(found) and level.data == "held_out"
    assert calibrate(ensemble, episodes, STEPS, held_out=False)["data"] == "training"


def test_an_ensemble_disagrees_more_far_from_what_it_has_learned_from() -> None:
    ensemble = model()
    near = [episode(1)]
    far = [(100.0 * observation, action) for observation, action in near]
    assert calibrate(ensemble, far, STEPS, True)["level"] > 2 * calibrate(ensemble, near, STEPS, True)["level"]


def test_nothing_is_said_where_no_episode_is_as_long_as_a_plan() -> None:
    assert calibrate(model(), [episode(1, ticks=2)], STEPS, True) == {}
