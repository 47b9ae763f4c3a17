"""Literal metadata: catkin reads this file, and its version equals the one in package.xml."""

from pathlib import Path

from setuptools import find_packages, setup

# dm_control (which gym-aloha needs too) needs labmaze, which has no build for Python 3.13 and which nothing here
# uses. There, all that dm_control needs itself is listed, and the two packages are installed with --no-deps.
WITH_LABMAZE = ["dm_control>=1.0.50", "gym-aloha==0.1.3"]
OF_DM_CONTROL = ["absl-py", "dm-tree", "glfw", "lxml", "protobuf", "pyopengl", "pyparsing", "requests", "scipy"]
SIM = [
    "mujoco>=3.17,<4",
    "mink>=1.3",
    "daqp>=0.11",
    "pyquaternion>=0.9.9",
    *(f"{name}; python_version < '3.13'" for name in WITH_LABMAZE),
    *(f"{name}; python_version >= '3.13'" for name in OF_DM_CONTROL),
]
TRAIN = [
    "torch>=2.7",
    "torchvision>=0.22",
    "einops>=0.8",
    "safetensors>=0.5",
    "diffusers>=0.35",
    "tensorboard>=2.17",
    "matplotlib>=3.8",
]
VIEW = ["matplotlib>=3.8", "av>=12", "rerun-sdk>=0.20", "pillow>=10"]
REMOTE = ["websockets>=15", "msgpack>=1"]
OPENVINO = ["openvino>=2026.4"]
ONNX = ["onnx>=1.19", "onnxruntime>=1.23", "onnxscript>=0.5"]
PUSHT = ["gym-pusht==0.1.8"]
ZARR = ["zarr>=2.18", "numcodecs>=0.12"]
LEROBOT = ["pyarrow>=15", "av>=12"]
RLDS = ["google-crc32c>=1.5"]
LANGUAGE = ["sentence-transformers>=5"]
BAGS = ["rosbags>=0.10", "mcap>=1.2"]
# Object stores through obstore and not s3fs, whose botocore needs python-dateutil < 3. So the S3 server of the tests
# (moto[s3,server]) is installed in an environment of its own, with its `moto_server` on PATH.
STORES = ["obstore>=0.8", "fsspec>=2024.6", "sshfs>=2024.6", "pyarrow>=15", "pandas>=2.2"]
RL = ["stable-baselines3>=2.7", "gymnasium>=1.0", "tensorboard>=2.17"]
# Not in `all`: a cluster's scheduler, of which every machine has the same version, and not for every Python.
RAY = ["ray[tune]>=2.40"]
# Not in `all`: robosuite needs an older MuJoCo than `sim` and an older numpy, so `make robosuite` gives it an
# environment of its own. Its wheel allows every MuJoCo from 3.3 on, but does not run with 3.10 and later.
ROBOSUITE = ["robosuite==1.5.2", "mujoco>=3.3,<3.10", "numpy<2"]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "scipy>=1.11",
    "psutil>=5.9",
    "mcap-ros2-support>=0.5",
    "hypothesis>=6",
    "aiohttp>=3.9",
    "webdataset>=0.2.90",
    "ruff>=0.6",
    "mypy>=1.11",
    "types-PyYAML",
]


def data_files() -> list[tuple[str, list[str]]]:
    """What roslaunch and names of configurations need, below PREFIX/share/aloha_kit, which is a ROS package there."""
    files = [Path("package.xml"), Path("record/99-aloha.rules")]
    for pattern in ("configs/**/*.yaml", "launch/*.launch", "record/*_node", "deploy/*_node"):
        files += sorted(Path().glob(pattern))
    return [(f"share/aloha_kit/{file.parent}", [str(file)]) for file in files]


setup(
    name="aloha_kit",
    version="0.1.0",
    description="Record, train, deploy and replay on ALOHA-style bimanual rigs, with or without the robot",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["aloha_kit", "aloha_kit.*"]),
    package_data={"aloha_kit": ["py.typed", "core/locale/zh.*", "pusht/*.html"]},
    data_files=data_files(),
    install_requires=[
        "numpy>=1.24",
        "dm_env>=1.6",
        "h5py>=3.8",
        "opencv-python>=4.8",
        "simplejpeg>=1.8",
        "pyyaml>=6",
        "dacite>=1.8",
        "tyro>=0.9",
        "tqdm>=4.65",
    ],
    extras_require={
        "sim": SIM,
        "train": TRAIN,
        "view": VIEW,
        "remote": REMOTE,
        "openvino": OPENVINO,
        "onnx": ONNX,
        "pusht": PUSHT,
        "zarr": ZARR,
        "lerobot": LEROBOT,
        "rlds": RLDS,
        "bags": BAGS,
        "stores": STORES,
        "ray": RAY,
        "rl": RL,
        "language": LANGUAGE,
        "robosuite": ROBOSUITE,
        "test": TEST,
        "all": SIM
        + TRAIN
        + VIEW
        + REMOTE
        + OPENVINO
        + ONNX
        + PUSHT
        + ZARR
        + LEROBOT
        + RLDS
        + BAGS
        + STORES
        + RL
        + LANGUAGE,
    },
    entry_points={
        "console_scripts": [
            "aloha-record = aloha_kit.record.__main__:main",
            "aloha-train = aloha_kit.train.__main__:main",
            "aloha-deploy = aloha_kit.deploy.__main__:main",
            "aloha-eval = aloha_kit.eval.__main__:main",
            "aloha-replay = aloha_kit.replay.__main__:main",
            "aloha-episode = aloha_kit.episode.__main__:main",
            "aloha-convert = aloha_kit.convert.__main__:main",
            "aloha-data = aloha_kit.data.__main__:main",
            "aloha-report = aloha_kit.report.__main__:main",
            "aloha-teleop = aloha_kit.teleop.__main__:main",
            "aloha-doctor = aloha_kit.doctor.__main__:main",
            "aloha-diagnose = aloha_kit.diagnose.__main__:main",
            "aloha-reproduce = aloha_kit.reproduce.__main__:main",
            "aloha-sweep = aloha_kit.sweep.__main__:main",
            "aloha-rl = aloha_kit.rl.__main__:main",
        ]
    },
)
