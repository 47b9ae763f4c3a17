"""Teleoperation without recording, and parking."""
