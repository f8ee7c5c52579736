"""Which training from bags a policy's settings begin, and which one a checkpoint goes on with."""

from __future__ import annotations

from wm_ros.training.bag_policy import BagPolicyPlan, BagPolicyTraining
from wm_ros.training.config import DreamerAgentConfig
from wm_ros.training.offline_dreamer import OfflineDreamerTraining
from wm_ros.training.offline_policy import OfflinePolicyTraining


def kind_of(plan: BagPolicyPlan) -> type[BagPolicyTraining]:
    """The training of the plan's agent."""
    return OfflineDreamerTraining if isinstance(plan.agent, DreamerAgentConfig) else OfflinePolicyTraining
