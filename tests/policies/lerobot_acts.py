"""What LeRobot's own ACT does with observations: runs in LeRobot's environment and imports nothing of ours.

python lerobot_acts.py CHECKPOINT OBSERVATIONS.npz OUTPUT.npz

OBSERVATIONS has `observation.state` (T, S) and each `observation.images.NAME` (T, 3, H, W) of bytes. OUTPUT has the
`chunk` (K, A) that is predicted for each, and the `action` (A,) that is selected at each step of one episode.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors


def main(checkpoint: str, observations: str, output: str) -> None:
    torch.set_num_threads(1)
    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = ACTPolicy.from_pretrained(checkpoint, strict=True)
    before, after = make_pre_post_processors(config, pretrained_path=checkpoint)
    given = dict(np.load(observations))
    chunks, actions = [], []
    for t in range(len(given["observation.state"])):
        frame = {key: torch.from_numpy(values[t]) for key, values in given.items()}
        batch = before({k: v / 255 if v.dtype == torch.uint8 else v for k, v in frame.items()})
        chunk = policy.predict_action_chunk(batch)
        chunks.append(after(chunk[0]).numpy())
        actions.append(after(policy.select_action(batch))[0].numpy())
    np.savez(output, chunk=np.stack(chunks), action=np.stack(actions))


if __name__ == "__main__":
    main(*sys.argv[1:])
