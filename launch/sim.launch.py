"""The simulated robot, its controller and its recorder."""

from wm_ros.bringup.launch import description


def generate_launch_description():
    return description("sim")
