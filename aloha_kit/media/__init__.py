"""Visualisation: videos, tiles, captions, plots, live views. Needs the `view` extra (PyAV, matplotlib, Rerun)."""
