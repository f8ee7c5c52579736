"""A recorded bag, played for the visualizer and rviz2."""

from wm_ros.bringup.launch import description


def generate_launch_description():
    return description("replay")
