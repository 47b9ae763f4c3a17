"""Published data sets: their files with address, size, licence and SHA-256, as far as these are published."""

from __future__ import annotations

from dataclasses import dataclass

_HUB = "https://huggingface.co/datasets"
_ROBOMIMIC = f"{_HUB}/robomimic/robomimic_datasets/resolve/74fa018461f479cd9fd15b924a16103012096203/v1.5"


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published data set.

    Attributes:
        address: where it is downloaded from; with a fixed revision where the host has them.
        path: in the data set's folder.
        size: in bytes; None where it is not published.
        sha256: None where it is not published: then the first download's is recorded.
        unpack: it is a ZIP archive whose content is the data set.
    """

    address: str
    path: str
    size: int | None = None
    sha256: str | None = None
    unpack: bool = False


@dataclass(frozen=True)
class PublishedDataset:
    """A published data set.

    Attributes:
        place: in its folder, what `--dataset_dir` takes.
        origin: where it is described.
    """

    about: str
    files: tuple[PublishedFile, ...]
    place: str
    format: str
    licence: str
    origin: str

    @property
    def size(self) -> int | None:
        """Bytes of all files; None where they are not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def _aloha(task: str, revision: str) -> PublishedDataset:
    """ACT's simulated demonstrations in LeRobot's format: the originals are in a shared folder without addresses."""
    paths = (
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        "videos/observation.images.top/chunk-000/file-000.mp4",
    )
    place = f"{_HUB}/lerobot/aloha_sim_{task}/resolve/{revision}"
    what, how = task.rsplit("_", 1)
    return PublishedDataset(
        about=f"ACT's 50 {how} demonstrations of {what.replace('_', ' ')}, simulated",
        files=tuple(PublishedFile(f"{place}/{path}", path) for path in paths),
        place="",
        format="lerobot",
        licence="MIT",
        origin="https://github.com/tonyzhaozh/act",
    )


def _robomimic(task: str, size: int, sha256: str) -> PublishedDataset:
    file = PublishedFile(f"{_ROBOMIMIC}/{task}/ph/low_dim_v15.hdf5", "low_dim_v15.hdf5", size, sha256)
    return PublishedDataset(
        about=f"robomimic's 200 demonstrations of {task} by one proficient person",
        files=(file,),
        place=file.path,
        format="robomimic",
        licence="MIT",
        origin="https://robomimic.github.io/docs/datasets/robomimic_v0.1.html",
    )


PUBLISHED = {
    "aloha_transfer_cube_human": _aloha("transfer_cube_human", "6a43d500f101255823a9d2b9dc244eeb01a2cd31"),
    "aloha_transfer_cube_scripted": _aloha("transfer_cube_scripted", "c5467ba9059e4c65f27775ced212076980a173fb"),
    "aloha_insertion_human": _aloha("insertion_human", "cc571a3c661df81b566dbfde3d5c1e85fcdf7884"),
    "aloha_insertion_scripted": _aloha("insertion_scripted", "8ab660912970111cbb26738b11458e6fc4a4aed1"),
    "lift_ph": _robomimic("lift", 21_084_088, "2067777cb8b532e9263dd09fd6448c41cc31224bb27be4a3b734010ae13eb540"),
    "can_ph": _robomimic("can", 46_889_752, "3f2eb92e0a5025d0095e866ac16cc8092d6a762abe27dec90dbaff9027282962"),
    "square_ph": _robomimic("square", 51_145_256, "45d8cabb6d57a4c03e839aa5e4b3e58fb60fe8bd20e1951fec563a2abfd14951"),
    "pusht": PublishedDataset(
        about="Diffusion Policy's 206 demonstrations of Push-T",
        files=(
            PublishedFile("https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip", "pusht.zip", unpack=True),
        ),
        place="pusht/pusht_cchi_v7_replay.zarr",
        format="pusht",
        licence="not stated",
        origin="https://diffusion-policy.cs.columbia.edu",
    ),
}
"""{name: data set}."""
