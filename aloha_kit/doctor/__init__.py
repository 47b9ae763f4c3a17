"""Checks of a rig before recording or deployment, with what to do about each problem."""
