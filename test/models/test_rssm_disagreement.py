"""Predictors of the latent disagree where they have not learned, and not about what is random in itself."""

from __future__ import annotations

import torch
from one_thread import one_thread  # noqa: F401

from wm_ros.models.rssm_disagreement import Predictors
from wm_ros.models.rssm_layers import initialize


def test_disagreement_falls_where_there_is_data_also_noisy_data_and_stays_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    predictors = Predictors(5, features=3, actions=1, latent=4, width=32, layers=2)
    initialize(predictors, generator)
    feature = 1.0 + torch.rand((256, 3), generator=generator)
    action = torch.rand((256, 1), generator=generator)
    here, there = (feature, action), (-2.0 * feature, -action)
    before = [float(predictors.disagreement(*at).detach().mean()) for at in (here, there)]
    adam = torch.optim.Adam(predictors.parameters(), 3e-3)
    for _ in range(200):
        noisy = torch.sin(feature.sum(-1, keepdim=True) + torch.arange(4)) + 0.5 * torch.randn((256, 4), generator=generator)
        adam.zero_grad()
        predictors.loss(feature, action, noisy).mean().backward()
        adam.step()
    after = [float(predictors.disagreement(*at).detach().mean()) for at in (here, there)]
    assert after[0] < 0.25 * before[0] and after[1] > 4 * after[0]


def test_every_predictor_is_one_network_by_itself() -> None:
    predictors = Predictors(3, features=2, actions=2, latent=4, width=8, layers=1)
    initialize(predictors, torch.Generator().manual_seed(1))
    feature, action = torch.randn(5, 6, 2), torch.randn(5, 6, 2)
    found = predictors(feature, action)
    assert found.shape == (3, 5, 6, 4)
    inner, outer = predictors.layers
    hidden = torch.nn.functional.silu(torch.cat([feature, action], -1) @ inner.weight[1] + inner.bias[1])
    torch.testing.assert_close(found[1], hidden @ outer.weight[1] + outer.bias[1])
    torch.testing.assert_close(predictors.disagreement(feature, action), found.std(0, correction=0).mean(-1))
    following = torch.randn(5, 6, 4)
    torch.testing.assert_close(predictors.loss(feature, action, following), 0.5 * (found - following).square().sum((0, -1)))
