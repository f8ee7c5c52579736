"""Which training beside a robot an agent's configuration asks for."""

from __future__ import annotations

from dataclasses import replace

from wm_ros.training.config import DreamerAgentConfig, MbpoAgentConfig, PolicyConfig
from wm_ros.training.online import OnlineTraining
from wm_ros.training.online_dreamer import OnlineDreamer
from wm_ros.training.online_sac import OnlineMbpo, OnlineSac


def kind_for(agent: PolicyConfig | DreamerAgentConfig) -> type[OnlineTraining]:
    """The training for these settings."""
    if isinstance(agent, DreamerAgentConfig):
        return OnlineDreamer
    return OnlineMbpo if isinstance(agent, MbpoAgentConfig) else OnlineSac


def paced(agent: PolicyConfig | DreamerAgentConfig, updates_per_step: float, warm_up: int) -> PolicyConfig | DreamerAgentConfig:
    """The same settings with so many updates for each tick, and so many ticks before the first; 0 leaves what is there.

    Raises:
        ValueError: too few ticks for the first update.
    """
    fit = agent.fit
    changes: dict[str, float] = {"warm_up": warm_up or fit.warm_up}
    if isinstance(agent, DreamerAgentConfig):
        if updates_per_step:
            changes["train_ratio"] = updates_per_step * agent.fit.batch * agent.fit.length
    else:
        changes["updates_per_step"] = updates_per_step or agent.fit.updates_per_step
    return replace(agent, fit=replace(fit, **changes))
