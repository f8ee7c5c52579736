"""What cameras are expected to show while a policy goes on, step by step: for people only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wm_ros.models.rssm import State
from wm_ros.runtime.artifact import IMAGINED_PREFIX, PLAN_ACTION, PLAN_OBSERVATION

if TYPE_CHECKING:
    from wm_ros.agents.dreamer import DreamerNetworks

LOOK_AHEAD = 15
"""Control ticks; as far as Dreamer imagines while it learns."""
GOLDEN = 0.6180339887


def begins(networks: DreamerNetworks) -> dict[str, str]:
    """What `further` begins with: name → value of the controller's graph."""
    drawn = {"noise": "noise.latent"} if networks.world.rssm.latent.distribution == "uniform" else {}
    return {"deter": "next.deter", "stoch": "next.stoch", **drawn}


def further(networks: DreamerNetworks, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of the policy's mean action and the prior.

    The future has no noise of its own, which would cost every tick of the robot draws that nobody looks at: uniform numbers go round the
    circle in steps of the golden ratio, which keeps each of them uniform; of a Gaussian latent the mean is taken.

    Args:
        networks: world model and actor.
        state: `deter [D]`, `stoch [S]`, and for categorical latents `noise [G]`.

    Returns:
        The next state, and what people are shown of it: `imagined_CAMERA` [h, w, C] uint8, `plan.action` [A] in contract units that led to
        it, and `plan.observation` [O] where the model expects vectors.
    """
    rssm, before = networks.world.rssm, State(state["deter"].unsqueeze(0), state["stoch"].unsqueeze(0))
    mean, _ = networks.actor(before.feature)
    action = networks.actor.limited(mean)
    if "noise" in state:
        turned = state["noise"] + GOLDEN
        noise = {"noise": turned - turned.floor()}
        after = rssm.imagine_step(before, action, noise["noise"].unsqueeze(0))
    else:
        noise = {}
        after = rssm.imagine_step(before, action, torch.zeros(1, rssm.latent.noise))
    shown = {IMAGINED_PREFIX + name: frame[0] for name, frame in networks.world.decode_images(after).items()}
    shown[PLAN_ACTION] = networks.to_contract(action)[0]
    if networks.world.decoder is not None:
        shown[PLAN_OBSERVATION] = networks.world.decode(after)[0]
    return {"deter": after.deter[0], "stoch": after.stoch[0], **noise}, shown
