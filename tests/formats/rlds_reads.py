"""What TensorFlow Datasets reads of a data set: runs in an environment of its own and imports nothing of ours.

    python rlds_reads.py FOLDER OUTPUT.npz OTHER

Every step of every episode is taken; and a data set is written to OTHER as the programs of Open X-Embodiment do.
"""

import sys

import numpy as np
import tensorflow_datasets as tfds


def flat(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}/{key}" if name else key)
    else:
        yield name, np.asarray(value)


def read(folder, output):
    builder = tfds.builder_from_directory(folder)
    arrays = {}
    for number, episode in enumerate(tfds.as_numpy(builder.as_dataset(split="train"))):
        steps = [dict(flat(step)) for step in episode.pop("steps")]
        arrays |= {f"{number}/steps/{key}": np.stack([step[key] for step in steps]) for key in steps[0]}
        arrays |= {f"{number}/{key}": value for key, value in flat(episode)}
    arrays["count"] = np.array(builder.info.splits["train"].num_examples)
    np.savez(output, **{key: value.astype("S") if value.dtype == object else value for key, value in arrays.items()})


def example(number):
    rng = np.random.default_rng(number)
    return {
        "steps": [
            {
                "observation": {
                    "image": np.full((20, 28, 3), 10 * i + number, np.uint8),
                    "state": rng.random(7).astype(np.float32),
                    "count": i,
                },
                "action": rng.random(7).astype(np.float32),
                "reward": float(i == 5),
                "is_first": i == 0,
                "is_last": i == 5,
                "is_terminal": i == 5,
                "language_instruction": "open the drawer",
            }
            for i in range(6)
        ]
    }


class Demo(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        f = tfds.features
        image = f.Image(shape=(20, 28, 3), dtype=np.uint8, encoding_format="png")
        state = {"image": image, "state": f.Tensor(shape=(7,), dtype=np.float32), "count": f.Scalar(dtype=np.int64)}
        flags = {key: f.Scalar(dtype=np.bool_) for key in ("is_first", "is_last", "is_terminal")}
        step = {"observation": f.FeaturesDict(state), "action": f.Tensor(shape=(7,), dtype=np.float32), **flags}
        step |= {"reward": f.Scalar(dtype=np.float32), "language_instruction": f.Text()}
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict({"steps": f.Dataset(step)}))

    def _split_generators(self, manager):
        return {"train": self._generate_examples((0, 1)), "val": self._generate_examples((2,))}

    def _generate_examples(self, numbers):
        yield from ((str(number), example(number)) for number in numbers)


read(*sys.argv[1:3])
Demo(data_dir=sys.argv[3]).download_and_prepare()
