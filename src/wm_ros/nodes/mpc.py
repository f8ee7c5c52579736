"""Serves a planning controller: sensors in, `mpc/command` out, with the plan behind it for people."""

from __future__ import annotations

from std_msgs.msg import Float32MultiArray
from std_srvs.srv import SetBool

from wm_ros.nodes import base, messages, serving
from wm_ros.runtime.answer import Answer


class MpcNode(serving.ServingNode):
    """Shows plans to those who look, and hands over to the policy where the contract wants that."""

    node_name, source = "mpc", "mpc"

    def configure(self) -> None:
        self._candidates, self._returns, self._spread = (
            self.create_publisher(Float32MultiArray, f"mpc/{name}", base.COMMAND_QOS) for name in ("candidates", "returns", "spread")
        )
        falls_back = self.contract.safety.on_disagreement == "policy"
        self._select = self.create_client(SetBool, "command_gate/select") if falls_back else None
        super().configure()

    def fall_back(self, to_policy: bool) -> None:
        # Where the gate does not answer, it holds: this node sends nothing meanwhile.
        if self._select is not None and self.active:
            self._select.call_async(SetBool.Request(data=not to_policy))
            self.get_logger().warning("the policy drives while plans disagree" if to_policy else "plans agree again")

    def show(self, answer: Answer) -> None:
        super().show(answer)
        output = answer.output
        for publisher, array, labels in (
            (self._candidates, output.candidates_observation, ("candidate", "horizon", "column")),
            (self._returns, output.candidates_return, ("candidate",)),
            (self._spread, output.plan_spread, ("horizon", "column")),
        ):
            if publisher.get_subscription_count() and array is not None:
                publisher.publish(messages.float32_array(array, *labels))


def main() -> None:
    """Entry point."""
    base.run(MpcNode)


if __name__ == "__main__":
    main()
