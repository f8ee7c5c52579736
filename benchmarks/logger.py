"""The logger node under load: what it keeps of a robot that talks fast, and the processor time that takes."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from wm_ros.bringup.domain import own_domain
from wm_ros.bringup.supervisor import Supervisor
from wm_ros.bringup.system import SINGLE_THREAD, NodeProcess, Program
from wm_ros.cli.bench import Result
from wm_ros.cli.failure import RunFailure
from wm_ros.data.bag_reader import Bag

RATE_HZ = 5000.0
SECONDS, QUICK_SECONDS = 60.0, 5.0
_HERE = Path(__file__).resolve().parent
_POLL_S = 0.05


def run(quick: bool) -> list[Result]:
    """Messages in the bag beside messages sent, over one topic, best effort."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with own_domain(None, "bench logger") as domain, tempfile.TemporaryDirectory(prefix="wm_ros_bench_") as name:
        environment = {**SINGLE_THREAD, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        folder = Path(name)
        report = folder / "report.json"
        logger = NodeProcess("logger", {"contract": "cartpole_swingup", "directory": str(folder / "bags"), "extra_topics": ""})
        command = (sys.executable, str(_HERE / "logger_source.py"), "--rate", str(RATE_HZ), "--seconds", str(seconds))
        source = Program("source", (*command, "--logger", str(folder), "--out", str(report)), required=True)
        with Supervisor(folder / "logs", environment) as supervisor:
            supervisor.start([logger, source])
            while "source" in supervisor.names:
                for death in supervisor.poll():
                    if death.name != "source" or death.status != 0:
                        raise RunFailure(f"bench logger: {death.describe()}")
                time.sleep(_POLL_S)
        found = json.loads(report.read_text())
        kept = sum(Bag(found["bag"]).counts.values())
    settings = {
        "topic": "joint_states, 12 joints, best effort",
        "bytes each": found["bytes"],
        "seconds": seconds,
        "sent": found["sent"],
        "lost": found["sent"] - kept,
        "processor time of the logger": f"{100 * found['cpu_s'] / found['seconds']:.0f} % of one core",
    }
    rate = found["sent"] / found["seconds"]
    return [Result("logger node under load", kept / found["seconds"], rate, "what was sent", "messages/s", True, settings)]
