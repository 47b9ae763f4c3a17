"""LeRobot's version 2.1 as a target, one table and one video an episode, and the form in which openpi reads ALOHA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from aloha_kit.core import ContractError
from aloha_kit.core.exporter import ExportRecord
from aloha_kit.core.files import link_or_copy
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats.lerobot_export import FILES, LeRobotExporter


class LeRobotV21Exporter(LeRobotExporter):
    """LeRobot v2.1: a table and a video for each episode."""

    version = "v2.1"

    def _info(self, records: Sequence[ExportRecord], described: dict[str, Any], tasks: int) -> dict[str, Any]:
        info = super()._info(records, described, tasks)
        del info["data_files_size_in_mb"], info["video_files_size_in_mb"]
        return info | {
            "total_videos": len(records) * len(records[0].further["cameras"]),
            "total_chunks": -(-len(records) // FILES),
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        }

    def _write_episodes(self, records: Sequence[ExportRecord], tasks: dict[str, int]) -> None:
        rate, first = records[0].further["rate_hz"], 0
        meta = self.folder / "meta"
        with (
            (meta / "episodes.jsonl").open("w", encoding="utf-8") as episodes,
            (meta / "episodes_stats.jsonl").open("w", encoding="utf-8") as all_stats,
        ):
            for episode, record in enumerate(records):
                scratch, name = self.parts / f"{record.number:06d}", f"episode_{episode:06d}"
                chunk = f"chunk-{episode // FILES:03d}"
                table, stats = self.numbered(scratch, episode, record, first, tasks, rate)
                (self.folder / "data" / chunk).mkdir(parents=True, exist_ok=True)
                pq.write_table(table, self.folder / "data" / chunk / f"{name}.parquet")
                for key in record.further["cameras"]:
                    link_or_copy(scratch / f"{key}.mp4", self.folder / "videos" / chunk / key / f"{name}.mp4")
                about = {"episode_index": episode, "tasks": [record.further["task"]], "length": record.steps}
                episodes.write(json.dumps(about) + "\n")
                all_stats.write(json.dumps({"episode_index": episode, "stats": stats}) + "\n")
                first += record.steps


_CAMERAS = {"top": "cam_high", "left_wrist": "cam_left_wrist", "right_wrist": "cam_right_wrist", "front": "cam_low"}
_ARRAYS = {"qpos", "action", "qvel", "effort"}


class OpenPiExporter(LeRobotV21Exporter):
    """openpi's ALOHA data: v2.1 with 14 joints in ALOHA's units and cameras `cam_high`, `cam_left_wrist`, ….

    Grippers stay 0 closed to 1 open: with `adapt_to_pi` openpi turns them into its own angle when it reads them.
    """

    def camera_name(self, camera: str) -> str:
        return _CAMERAS.get(camera, camera)

    def carried(self, episode: RecordedEpisode) -> list[str]:
        return [name for name in super().carried(episode) if name in _ARRAYS]

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        contract = episode.contract
        widths = len(contract.state_names), len(contract.action_names)
        if widths != (14, 14):
            raise ContractError(
                "{where}: openpi's ALOHA has 14 joints, this has {joints} and {actions}",
                where=episode.where,
                joints=widths[0],
                actions=widths[1],
            )
        if contract.units != {"joints": "rad", "gripper": "0 closed, 1 open"}:
            raise ContractError(
                "{where}: openpi's ALOHA has radians and openings, this has {units}",
                where=episode.where,
                units=contract.units,
            )
        super().write(number, episode, record)
