"""The controller before there is a model: smooth, wide, and away from the ends of the rail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cartpole_models import contract

from wm_ros.agents.explorer import Explorer, ExplorerConfig


def actions(config: ExplorerConfig, ticks: int, observation: torch.Tensor, seed: int = 0) -> np.ndarray:
    explorer = Explorer(contract(), config)
    generator = torch.Generator().manual_seed(seed)
    carry = {name: torch.zeros(shape) for name, shape in explorer.carry.items()}
    found = []
    for _ in range(ticks):
        noise = {name: torch.randn(spec.shape, generator=generator) for name, spec in explorer.noise.items()}
        result = explorer(observation, carry, noise)
        carry = result["next"]
        found.append(float(result["action"][0]))
    return np.array(found)


CENTRE = torch.tensor([0.0, 0.0, -1.0, 0.0, 0.0])
FREE = ExplorerConfig(time_constant_s=0.2, std=0.3)


def test_actions_are_as_wide_and_as_smooth_as_configured() -> None:
    drawn = actions(FREE, 4000, CENTRE) / 10.0
    assert drawn[200:].std() == pytest.approx(0.3, rel=0.1) and abs(drawn.mean()) < 0.06
    correlation = np.corrcoef(drawn[200:-1], drawn[201:])[0, 1]
    assert correlation == pytest.approx(np.exp(-0.02 / 0.2), abs=0.03)


def test_actions_stay_within_the_contracts_limits() -> None:
    drawn = actions(replace(FREE, std=3.0), 500, CENTRE)
    assert drawn.min() == -10.0 and drawn.max() == 10.0


def test_a_cart_near_the_end_of_its_rail_is_pushed_back() -> None:
    far = CENTRE.clone()
    far[0] = 1.9
    assert actions(FREE, 400, far).mean() < -1.0 and actions(FREE, 400, -far).mean() > 1.0


@pytest.mark.parametrize("wrong", [{"time_constant_s": 0.0}, {"std": -1.0}, {"centering": -0.1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ExplorerConfig(**wrong)
