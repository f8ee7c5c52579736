"""Controllers small enough that an export takes about two seconds."""

from __future__ import annotations

import torch
from cartpole_models import contract

from wm_ros.agents.explorer import Explorer, ExplorerConfig
from wm_ros.agents.pets import PetsConfig, PetsController, dynamics
from wm_ros.models.ensemble import EnsembleConfig
from wm_ros.planners.icem import ICEMConfig

PETS = PetsConfig(
    stride=2,
    ensemble=EnsembleConfig(members=3, elites=2, layers=2, width=8),
    planner=ICEMConfig(horizon=3, candidates=8, iterations=2, elites=4, kept=2),
)


def pets(seed: int, config: PetsConfig = PETS) -> PetsController:
    """Random weights and normalizers, as after a training."""
    trained = dynamics(contract(), config, planning=False)
    generator = torch.Generator().manual_seed(seed)
    trained.network.initialize(generator)
    with torch.no_grad():
        for name, tensor in trained.named_buffers(recurse=False):
            if name.endswith("_std") and not name.startswith("action"):
                tensor.copy_(0.3 + torch.rand(tensor.shape, generator=generator))
    controller = PetsController(contract(), config)
    controller.take(trained, [2, 0, 1])
    return controller


def explorer() -> Explorer:
    return Explorer(contract(), ExplorerConfig())
