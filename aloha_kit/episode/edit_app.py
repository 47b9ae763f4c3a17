"""Subcommands that edit a data set: flags to edits, kept in its curation or written as a copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from aloha_kit.core import plural
from aloha_kit.core.errors import ConfigError
from aloha_kit.core.lang import Message, shown, tr
from aloha_kit.episode.edit import (
    Copy,
    divided,
    drawn,
    dropped,
    EditedDataset,
    halves,
    merge,
    merge_copy,
    moving_spans,
    relabelled,
    trimmed,
)
from aloha_kit.episode.edit_args import (
    CopyArgs,
    Drop,
    Edit,
    EditArgs,
    Merge,
    Relabel,
    RenameCamera,
    Reorder,
    Resize,
    Split,
    Trim,
)
from aloha_kit.storage.curation import chosen, Curation


def edit_dataset(args: Edit) -> int:
    """Run one editing subcommand; returns the exit status.

    Raises:
        AlohaKitError: no such data set, episode, steps or camera, or a copy over existing data.
    """
    if isinstance(args, Merge):
        if args.into is not None:
            print(shown(merge(args.sources, args.into)))
            return 0
        return merge_copy(args.sources, _copy(args))
    dataset = EditedDataset(args.source, args.from_format)
    curation = _edited(args, dataset)
    if args.copy is None:
        print(shown(dataset.save(curation)))
        return 0
    if not isinstance(args, Split):
        return dataset.copy(curation, _copy(args))
    kept = [name for name in dataset.names if not curation.edit(name).drop]
    sides = halves(curation, kept, curation.validation)
    return max(dataset.copy(side, _copy(args, args.copy / name)) for name, side in sides.items())


def _copy(args: CopyArgs, target: Path | None = None) -> Copy:
    target = target or args.copy
    assert target is not None, "only called with --copy"
    return Copy(target, args.format, args.workers)


def _edited(args: EditArgs, dataset: EditedDataset) -> Curation:
    """The curation of a data set with what the flags edit."""
    curation, names = dataset.curation, dataset.names
    if isinstance(args, Drop):
        given = args.episodes or [name for name in names if curation.edit(name).drop]
        return dropped(curation, chosen(given, names), undo=args.undo)
    if isinstance(args, Trim):
        return _trimmed(args, dataset)
    if isinstance(args, Relabel):
        return relabelled(curation, _some(args.episodes, dataset), None if args.undo else args.labels.given)
    if isinstance(args, Split):
        return divided(curation, _validation(args, dataset))
    if isinstance(args, Reorder):
        return dataclasses.replace(curation, order=tuple(chosen(args.episodes, names)))
    if isinstance(args, RenameCamera):
        return _renamed(args, dataset)
    assert isinstance(args, Resize)
    with dataset.first() as episode:
        cameras = args.cameras or tuple(episode.cameras)
    kept = {camera: size for camera, size in curation.image_size.items() if camera not in cameras}
    resized = {} if args.size is None else dict.fromkeys(cameras, args.size)
    return dataclasses.replace(curation, image_size={**kept, **resized})


def _some(given: Sequence[str], dataset: EditedDataset) -> list[str]:
    """The episodes that were named; all that are not dropped by default."""
    kept = [name for name in dataset.names if not dataset.curation.edit(name).drop]
    return chosen(given, dataset.names) if given else kept


def _trimmed(args: Trim, dataset: EditedDataset) -> Curation:
    names = _some(args.episodes, dataset)
    if args.undo:
        return trimmed(dataset.curation, dict.fromkeys(names, (0, None)))
    if not args.still:
        return trimmed(dataset.curation, dict.fromkeys(names, (args.start, args.stop)))
    spans = moving_spans(dataset, names)
    print(
        tr(
            "{episodes} of {all} with still steps at the ends",
            episodes=plural(len(spans), "episode"),
            all=len(names),
        )
    )
    return trimmed(dataset.curation, spans)


def _validation(args: Split, dataset: EditedDataset) -> list[str]:
    if args.undo:
        return []
    kept = _some((), dataset)
    if args.val_fraction is not None:
        return drawn(kept, args.val_fraction, args.seed)
    picked = chosen(args.val or args.train, kept)
    validation = picked if args.val else [name for name in kept if name not in picked]
    if not 0 < len(validation) < len(kept):
        raise ConfigError(
            "{n} of {all} for validation: some must be on each side",
            n=len(validation),
            all=plural(len(kept), "episode"),
        )
    return validation


def _renamed(args: RenameCamera, dataset: EditedDataset) -> Curation:
    """Curation with a camera renamed once more, or again as recorded."""
    curation = dataset.curation
    cameras = dict(curation.cameras)
    recorded = cameras.pop(args.old, args.old)
    new = recorded if args.undo else args.new
    if args.undo and args.old not in curation.cameras:
        raise ConfigError(
            "camera '{old}' is not a new name; renamed are: {cameras}",
            old=args.old,
            cameras=", ".join(cameras) or Message("(none)"),
        )
    if not args.undo:
        dataset.require_camera(args.old)
    if new != recorded:
        cameras[new] = recorded
    sizes = {new if camera == args.old else camera: size for camera, size in curation.image_size.items()}
    return dataclasses.replace(curation, cameras=cameras, image_size=sizes)
