"""wm_ros: learned world models that control robots under ROS 2."""

__version__ = "0.1.0"
