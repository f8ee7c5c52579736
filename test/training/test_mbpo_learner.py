"""Deep Dyna: when the model is fitted, what a batch is made of, and that a learner goes on where it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cartpole_models import contract
from small_mbpo import AGENT, MBPO, MODEL_FIT, recorded, slider
from small_sac import SAC

from wm_ros.agents.sac import SacNetworks
from wm_ros.models.transitions import Transitions
from wm_ros.training.mbpo_learner import MbpoLearner


def policy() -> SacNetworks:
    networks = SacNetworks(contract(), SAC).requires_grad_(False)
    networks.policy.initialize(torch.Generator().manual_seed(3))
    return networks


def learner(**options: object) -> MbpoLearner:
    return MbpoLearner(contract(), replace(MBPO, **options), MODEL_FIT, seed=0)  # type: ignore[arg-type]


def test_the_model_is_fitted_at_first_and_then_after_so_many_transitions() -> None:
    made, real, networks, rng = learner(), recorded(64), policy(), np.random.default_rng(0)
    made.advance(real, networks, rng)
    assert made.fits == 1 and np.isnan(made.model_error) and len(made.imagined) == 160 and made.length == 1
    more = recorded(40, seed=1).state()
    rows = {k: v for k, v in more.items() if k != "added"}
    real.add(**{k: v[:39] for k, v in rows.items()})
    made.advance(real, networks, rng)
    assert made.fits == 1
    real.add(**{k: v[39:] for k, v in rows.items()})
    made.advance(real, networks, rng)
    assert made.fits == 2 and made.learned_from == 104 and 0 < made.model_error < 10
    assert made.length == 1  # 24 of 80 on the way from 1 to 3
    figures = made.figures()
    assert figures["imagined"] == 320 and figures["drop_rate"] == 0.0 and made.figures()["imagined"] == 0


def test_longer_rollouts_replace_what_older_models_imagined() -> None:
    made, networks, rng = learner(), policy(), np.random.default_rng(0)
    start = recorded(20).state()["observation"]
    for _ in range(3):
        made.imagine(start, 10, 1, networks, rng)
    assert len(made.imagined) == 20  # two rounds are kept
    made.imagine(start, 10, 3, networks, rng)
    assert len(made.imagined) == 30 and made.imagined.capacity == 60


def test_a_batch_has_its_share_of_real_transitions() -> None:
    made, real, rng = learner(real_share=0.25), recorded(), np.random.default_rng(0)
    known = {row.tobytes() for row in real.state()["observation"]}

    def share() -> int:
        batch = made.batch(real, AGENT.fit, rng)
        assert batch.observation.shape == (32, 5) and batch.discount.shape == (32,)
        return sum(row.numpy().tobytes() in known for row in batch.observation)

    assert share() == 32  # nothing is imagined yet
    made.imagine(np.full((1, 5), 0.5, np.float32), 100, 1, policy(), rng)
    assert share() == 8


def test_real_and_imagined_rewards_carry_the_same_bonus() -> None:
    real = recorded()
    plain, curious = learner(real_share=1.0), learner(real_share=1.0, exploration=0.5)
    for made in (plain, curious):
        made.advance(real, policy(), np.random.default_rng(0))
    first, second = (made.batch(real, AGENT.fit, np.random.default_rng(1)) for made in (plain, curious))
    with torch.no_grad():
        spread = curious.elites.spread(first.observation, first.action)
    assert torch.allclose(second.reward - first.reward, 0.5 * spread, atol=1e-5) and float(spread.min()) > 0


def test_a_restored_learner_goes_on_bit_for_bit() -> None:
    real, networks = recorded(), policy()
    made = learner()
    made.advance(real, networks, np.random.default_rng(0))
    other = MbpoLearner(contract(), MBPO, MODEL_FIT, seed=99)
    other._seed = 0  # as a resumed training has it
    other.restore({k: torch.as_tensor(v).clone() for k, v in made.state().items()})
    more = {k: v for k, v in recorded(40, seed=1).state().items() if k != "added"}
    real.add(**more)
    for each in (made, other):
        each.advance(real, networks, np.random.default_rng(5))
    ours, theirs = made.state(), other.state()
    assert set(ours) == set(theirs) and all(torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours)


def test_many_dropped_ticks_are_warned_of() -> None:
    said: list[str] = []
    made = MbpoLearner(contract(), MBPO, MODEL_FIT, 0, said.append)
    start = recorded(20).state()["observation"]
    made.imagine(start, 90, 1, policy(), np.random.default_rng(0))
    assert not said
    with torch.no_grad():
        made.elites.network.biases[0][0] = float("inf")
    made.imagine(start, 90, 1, policy(), np.random.default_rng(0))
    assert len(said) == 1 and "50.0% of the imagined ticks have no finite end and are left out" in said[0]
    assert made.figures()["drop_rate"] == pytest.approx(45 / 180)


@pytest.mark.parametrize("normalize", [True, False])
def test_targets_and_rewards_are_normalized_per_channel_unless_told_otherwise(normalize: bool) -> None:
    made = MbpoLearner(slider(), replace(MBPO, model=replace(MBPO.model, normalize=normalize)), MODEL_FIT, seed=0)
    rng = np.random.default_rng(0)
    here, action = (rng.normal(size=shape).astype(np.float32) for shape in ((100, 1), (100, 1, 1)))
    data = Transitions(here, action, here + 0.01 * action[:, 0], 100.0 * here[:, 0], np.zeros(100, np.bool_))
    _, targets, _, _ = made.model.prepare(data)
    assert made.model.reward_network is not None
    deviation = float(targets.std(correction=0))
    assert deviation == pytest.approx(1.0 if normalize else 0.01, rel=0.3)
    assert float(made.model.reward_network.reward_std) == pytest.approx(100.0 if normalize else 1.0, rel=0.3)
