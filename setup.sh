# . ./setup.sh (bash or zsh): the environment of this checkout, with ROS finding its launch files, in this shell.
_here=$(cd "$(dirname "${BASH_SOURCE:-$0}")" && pwd)
. "$_here/.venv/bin/activate"
export ROS_PACKAGE_PATH="$_here:${ROS_PACKAGE_PATH:-/usr/share}"
export MUJOCO_GL="${MUJOCO_GL:-egl}"
unset _here
