"""Dreamer of all three versions, small enough for tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from small_sac import arm

from wm_ros.agents.dreamer import V1, V2, V3, DreamerConfig
from wm_ros.training.dreamer_learner import V1_FIT, V2_FIT, V3_FIT, DreamerFitConfig, DreamerLearner, SequenceBatch

VERSIONS = ("v1", "v2", "v3")


def config(version: str = "v3") -> DreamerConfig:
    whole = {"v1": V1, "v2": V2, "v3": V3}[version]
    rssm = replace(whole.rssm, groups=4, classes=5, deter=24, hidden=16, blocks=min(whole.rssm.blocks, 4))
    world = replace(whole.world, units=16, encoder_layers=1, decoder_layers=1, reward_layers=1, continue_layers=1)
    return replace(whole, rssm=rssm, world=world, units=16, actor_layers=1, critic_layers=1)


def fit(version: str = "v3") -> DreamerFitConfig:
    whole = {"v1": V1_FIT, "v2": V2_FIT, "v3": V3_FIT}[version]
    return replace(whole, batch=4, length=8, horizon=5, warm_up=64, train_ratio=32.0, capacity=5000, max_skipped=3)


def learner(version: str = "v3", seed: int = 0, **changes: object) -> DreamerLearner:
    return DreamerLearner(arm(), config(version), replace(fit(version), **changes), torch.Generator().manual_seed(seed))


def batch(seed: int = 0, size: int = 4, length: int = 8) -> SequenceBatch:
    """Stretches for `arm`, with borders of episodes within, one of them a termination."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([[-1.0, -2.0, -3.0], [2.0, 3.0, 4.0]])
    first = torch.zeros(size, length, dtype=torch.bool)
    first[0, 3] = first[1, 0] = first[2, 6] = True
    terminated = torch.zeros(size, length, dtype=torch.bool)
    terminated[0, 2] = True
    reward = torch.randn((size, length), generator=generator)
    return SequenceBatch(
        torch.randn((size, length, 7), generator=generator),
        limits[0] + (limits[1] - limits[0]) * torch.rand((size, length, 3), generator=generator),
        torch.where(first, 0.0, reward),
        terminated,
        first,
    )


def paid_batch(trained: DreamerLearner, generator: torch.Generator) -> SequenceBatch:
    """Stretches without borders that reward the first joint's action, which the observation shows."""
    data = batch(int(torch.randint(1 << 30, (), generator=generator)))
    data.first.zero_()
    data.terminated.zero_()
    paid = trained.networks.to_half_ranges(data.action)[..., 0]
    data.reward.copy_(3.0 * paid)
    data.observation[..., 0].copy_(paid)
    return data
