"""The trainer, beside a system that sim.launch.py or robot.launch.py runs."""

from wm_ros.bringup.launch import description


def generate_launch_description():
    return description("train")
