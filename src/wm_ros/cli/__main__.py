"""python -m wm_ros.cli, the same as the command wm-ros."""

from wm_ros.cli.main import main

main()
