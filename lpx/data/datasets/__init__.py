"""Adapters: from a data set as its authors published it to labelled videos."""

from __future__ import annotations

from pathlib import Path

from lpx.data.datasets import celeb_df, deeperforensics, deepfakebench, dfdc, dfdcp, ffpp
from lpx.data.datasets.adapter import SPLITS, DatasetInfo, Listing, VideoQuery
from lpx.data.roots import data_roots
from lpx.data.videos import Video, VideoSet
from lpx.errors import LpxError

KNOWN: dict[str, DatasetInfo] = {
    **{f"ffpp-{level}": info for level, info in ffpp.INFO.items()},
    "celeb-df-v2": celeb_df.INFO,
    "dfdc": dfdc.INFO,
    "dfdcp": dfdcp.INFO,
    "deeperforensics": deeperforensics.INFO,
    "deepfakebench": deepfakebench.INFO,
}
"""Data sets of videos by name; "deepfakebench" takes a file, as in "deepfakebench:FILE.json"."""
WITH_FILE = "deepfakebench"
_NAMED = 3
_WORDS = ("real", "fake")


def open_videos(
    name: str,
    *,
    root: Path | None = None,
    split: str | None = None,
    methods: tuple[str, ...] = (),
    strict: bool = False,
) -> VideoSet:
    """The videos of a data set that are on disk.

    Args:
        name: A name of `KNOWN`; "deepfakebench:FILE.json", or "deepfakebench:FILE.json@c40" where
            the file lists several compression levels.
        root: The set's root or a folder above it; looked into before LPX_DATA and lpx.toml.
        split: "train", "val" or "test" by the official lists; None for all. What has no official
            split counts as test.
        methods: Manipulations, in any case; () for the set's usual ones. Reals come with them.
        strict: Whether a video that the lists name must be on disk.

    Raises:
        LpxError: Unknown name, split or method; the set is not found; a list is damaged or missing;
            the split has no videos; or `strict`, and videos are missing.
    """
    key, _, argument = name.partition(":")
    if key not in KNOWN or bool(argument) != (key == WITH_FILE):
        known = ", ".join(f"{k}:FILE.json" if k == WITH_FILE else k for k in KNOWN)
        raise LpxError(
            f"unknown video data set {name!r}", f"known ones: {known}", "name one of these"
        )
    if split is not None and split not in SPLITS:
        raise LpxError(
            f"unknown split {split!r}", f"splits are {', '.join(SPLITS)}", "name one of these"
        )
    info = KNOWN[key]
    listing = info.adapter(VideoQuery(data_roots(root), argument, split, methods))
    _check_names(name, listing)
    _check_split(name, listing, split)
    videos = tuple(video for video in listing.present if _is_in(video.split, split))
    missing = tuple(
        [video.name for video in listing.absent if _is_in(video.split, split)]
        + [lost for home, lost in listing.lost if _is_in(home, split)]
    )
    if missing and (strict or not videos):
        held = f"{len(videos)} videos of {name} are" if videos else f"no video of {name} is"
        raise LpxError(
            f"{held} on disk; missing below {listing.root}, {len(missing)} in all:"
            + "".join(f"\n    {entry}" for entry in missing[:_NAMED])
            + (f"\n    and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""),
            "with --strict nothing may be missing" if videos else "",
            listing.hint or f"download them: {info.obtained}",
        )
    hints = (f"{listing.hint[:1].upper()}{listing.hint[1:]}.",) if listing.hint and missing else ()
    notes = (*listing.notes, *hints, *_notes(listing, split), *_one_sided(videos))
    return VideoSet(name, listing.root, videos, missing, " ".join(notes), listing.crop)


def _is_in(home: str, split: str | None) -> bool:
    return split is None or (home or "test") == split


def _check_names(name: str, listing: Listing) -> None:
    seen: set[str] = set()
    for video in (*listing.present, *listing.absent):
        if video.name in seen:
            raise LpxError(
                f"{name} lists {video.name} twice",
                "a video that counts twice falsifies every result",
                f"copy the lists below {listing.root} again",
            )
        seen.add(video.name)


def _check_split(name: str, listing: Listing, split: str | None) -> None:
    """Every method that is meant has videos, on disk or not, in the split."""
    homes: dict[str, set[str]] = {}
    for video in (*listing.present, *listing.absent):
        homes.setdefault(video.method, set()).add(video.split or "test")
    lost = any(_is_in(home, split) for home, _ in listing.lost)
    if lost and not any(_is_in(home, split) for splits in homes.values() for home in splits):
        return  # It is the list itself that is missing, which is said elsewhere.
    without = [method for method, splits in homes.items() if split and split not in splits]
    if without or not homes:
        there = sorted({split for splits in homes.values() for split in splits}, key=SPLITS.index)
        raise LpxError(
            f"{name} has no videos{f' for {split}' if split else ''}"
            + (f" of {', '.join(without)}" if without else ""),
            f"it has videos for {', '.join(there)}"
            if there
            else f"nothing is below {listing.root}",
            "name another split or other methods" if there else "download the set again",
        )


def _notes(listing: Listing, split: str | None) -> list[str]:
    """What is true of any set: parts without a split, and people whom training has seen."""
    notes = []
    unsplit = sorted({v.method for v in listing.present if not v.split})
    if unsplit and split:
        notes.append(f"{', '.join(unsplit)}: without official splits, all of it counts as test.")
    train, test = (_people(listing.present, home) for home in ("train", "test"))
    if shared := sorted(train & test):
        named = ", ".join(shared[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
        notes.append(f"{len(shared)} identities are in train and in test: {named}.")
    return notes


def _one_sided(videos: tuple[Video, ...]) -> list[str]:
    """What to know where a whole class is missing: nothing can be told from anything then."""
    held = {video.label for video in videos}
    absent = [word for label, word in enumerate(_WORDS) if label not in held]
    return [f"No {word} video is on disk." for word in absent]


def _people(videos: tuple[Video, ...], split: str) -> set[str]:
    return {person for video in videos if video.split == split for person in video.identities}
