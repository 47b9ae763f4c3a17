"""Report: one HTML page about episodes, training and rollouts of a folder."""
