"""Serves a policy: sensors in, `policy/command` out. The gate listens to it after `command_gate/select` false."""

from __future__ import annotations

from wm_ros.nodes import base, serving


class PolicyServerNode(serving.ServingNode):
    """Takes any controller artifact, as `mpc` does; only the topics are its own, so that both can serve side by side."""

    node_name, source = "policy_server", "policy"


def main() -> None:
    """Entry point."""
    base.run(PolicyServerNode)


if __name__ == "__main__":
    main()
