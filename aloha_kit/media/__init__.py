"""Images for people: videos, tiles, captions and plots. Needs the `view` extra (PyAV, matplotlib)."""

from aloha_kit.media.frames import caption, fit, row
from aloha_kit.media.plots import joint_traces, sensor_traces, Strip, timing
from aloha_kit.media.video import Mp4Writer

__all__ = ["Mp4Writer", "Strip", "caption", "fit", "joint_traces", "row", "sensor_traces", "timing"]
