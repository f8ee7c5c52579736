"""A real robot's controller and recorder: topics come from the robot, renamed by remap:=."""

from wm_ros.bringup.launch import description


def generate_launch_description():
    return description("robot")
