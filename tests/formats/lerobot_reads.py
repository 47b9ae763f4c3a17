"""What LeRobot itself reads of data sets: runs in LeRobot's environment and imports nothing of ours.

    python lerobot_reads.py DATA_SET OUTPUT.npz [--convert]

Every row is taken through `LeRobotDataset` and every image decoded. With --convert, LeRobot's own converter first turns
the data set from v2.1 to v3.0, in its place.
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

if "--convert" in sys.argv:
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

    convert_dataset("local/data", root=sys.argv[1], push_to_hub=False)
data = LeRobotDataset("local/data", root=sys.argv[1], video_backend="pyav", return_uint8=True)
rows = [data[i] for i in range(len(data))]
arrays = {key: np.stack([np.asarray(row[key]) for row in rows]) for key in rows[0]}
arrays |= {f"stats/{key}/{name}": value for key, one in data.meta.stats.items() for name, value in one.items()}
np.savez(sys.argv[2], **arrays)
