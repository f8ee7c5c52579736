"""The update by hand is the published one, and depends on nothing but its arguments."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Literal

import pytest
import torch
from small_sac import FIT, SAC, arm, batch, learner
from torch import Tensor

from wm_ros.agents.sac import SacConfig
from wm_ros.training import dense
from wm_ros.training.sac_learner import Batch, SacFitConfig, SacLearner


class Reference:
    """The same update as one writes it down from the paper, with autograd, distributions and torch's optimizers."""

    def __init__(self, learner: SacLearner) -> None:
        self.networks = copy.deepcopy(learner.networks).requires_grad_(True)
        self.target = copy.deepcopy(learner.target)
        self.log_temperature = learner.log_temperature.detach().clone().requires_grad_(True)
        self.fit, self.target_entropy = learner.fit, learner.target_entropy
        parameters = self.networks.policy.parameters(), self.networks.critics.parameters(), [self.log_temperature]
        self.optimizers = [torch.optim.Adam(p, lr=self.fit.learning_rate) for p in parameters]

    def draw(self, normalized: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.networks.gaussian(normalized)
        normal = torch.distributions.Normal(mean, log_std.exp())
        unsquashed = mean + log_std.exp() * noise
        action = unsquashed.tanh()
        return action, (normal.log_prob(unsquashed) - torch.log(1.0 - action.double() ** 2).float()).sum(1)

    def update(self, batch: Batch, noise: Tensor) -> None:
        networks = self.networks
        here, following = networks.normalized(batch.observation), networks.normalized(batch.next_observation)
        taken = (batch.action - networks.action_middle) / networks.action_half
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            action, log_density = self.draw(following, noise[0])
            future = self.target(torch.cat([following, action], 1))[..., 0].min(0).values
            wanted = batch.reward + batch.discount * (future - temperature * log_density)
        action, log_density = self.draw(here, noise[1])

        critic_loss = sum(0.5 * ((v[:, 0] - wanted) ** 2).mean() for v in networks.critics(torch.cat([here, taken], 1)))
        self._step(1, critic_loss)
        self._step(0, (temperature * log_density - networks.value(here, action)).mean())
        self._step(2, -(self.log_temperature * (log_density.detach() + self.target_entropy)).mean())
        with torch.no_grad():
            for mine, theirs in zip(self.target.parameters(), networks.critics.parameters(), strict=True):
                mine.lerp_(theirs, self.fit.target_rate)

    def _step(self, which: int, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        self.optimizers[which].step()


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("layers", "layer_norm"), [(1, "none"), (3, "none"), (1, "all"), (3, "critics")])
def test_the_update_by_hand_is_the_one_that_autograd_makes(
    layers: int, layer_norm: Literal["none", "critics", "all"], onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "_ONEDNN", onednn and dense._ONEDNN)
    ours = learner(config=SacConfig(layers=layers, width=24, layer_norm=layer_norm))
    reference = Reference(ours)
    for step in range(4):
        reference.update(*batch(step))
        ours.update(*batch(step))
    for name, mine in (*ours.networks.named_parameters(), *((f"target {n}", p) for n, p in ours.target.named_parameters())):
        theirs = dict(reference.networks.named_parameters()) | {f"target {n}": p for n, p in reference.target.named_parameters()}
        torch.testing.assert_close(mine, theirs[name], rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(ours.log_temperature.detach(), reference.log_temperature.detach())


def test_equal_arguments_give_equal_updates_bit_for_bit() -> None:
    first, second = learner(), learner()
    torch.manual_seed(1)
    first.update(*batch(0))
    torch.manual_seed(2)
    second.update(*batch(0))
    assert torch.equal(first.policy.values, second.policy.values) and torch.equal(first.critics.values, second.critics.values)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    """One transition over and over: critics go to the reward where it terminates, to the reward and the future where it was cut."""
    given, noise = batch(0, size=1)
    values = {}
    for discount in (0.0, 0.9):
        ours = learner(fit=SacFitConfig(batch=32, warm_up=64, learning_rate=0.01, temperature=1e-6, discount=0.9))
        one = Batch(given.observation, given.action, torch.ones(1), given.observation, torch.tensor([discount]))
        ours.target.load_state_dict({n: torch.zeros_like(p) for n, p in ours.target.state_dict().items()})
        ours.target.biases[-1].fill_(5.0)
        frozen = ours._target_values.clone()
        for _ in range(300):
            ours.update(one, noise)
            ours._target_values.copy_(frozen)
        networks = ours.networks
        action = (one.action - networks.action_middle) / networks.action_half
        values[discount] = float(networks.value(networks.normalized(one.observation), action))
    assert values[0.0] == pytest.approx(1.0, abs=0.02)
    assert values[0.9] == pytest.approx(1.0 + 0.9 * 5.0, abs=0.05)


@pytest.mark.parametrize(("target", "direction"), [(-5.0, -1.0), (5.0, 1.0)])
def test_the_temperature_falls_while_the_policy_is_more_random_than_wanted_and_rises_while_less(target: float, direction: float) -> None:
    ours = learner(fit=SacFitConfig(batch=32, warm_up=64, target_entropy=target))
    temperatures = [float(ours.update(*batch(i)).temperature) for i in range(20)]
    assert all(direction * (b - a) > 0 for a, b in itertools.pairwise(temperatures))
    assert temperatures[0] == pytest.approx(0.1)


def test_the_target_entropy_is_minus_one_per_joint_by_default() -> None:
    assert SacLearner(arm(), SAC, FIT, torch.Generator()).target_entropy == -3.0


def test_densities_stay_finite_where_actions_are_at_their_limits() -> None:
    ours = learner()
    ours.networks.policy.biases[-1][0, :3] = 40.0
    losses = ours.update(*batch(0))
    assert all(math.isfinite(float(v)) for v in vars(losses).values()) and torch.isfinite(ours.policy.values).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("discount", 1.0),
        ("target_rate", 0.0),
        ("batch", 0),
        ("warm_up", 10),
        ("capacity", 100),
        ("updates_per_step", -1.0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        SacFitConfig(**{field: value})  # type: ignore[arg-type]


def test_networks_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="layers 0"):
        SacConfig(layers=0)
    with pytest.raises(ValueError, match="log_std_low"):
        SacConfig(log_std_low=3.0)
    with pytest.raises(ValueError, match="layer_norm"):
        SacConfig(layer_norm="every")  # type: ignore[arg-type]
