"""Public data sets: from the files that their authors published to labelled videos."""

from __future__ import annotations

from pathlib import Path

from lpx.arguments import check_choice
from lpx.data.datasets import celeb_df, deeperforensics, deepfakebench, dfdc, dfdcp, ffpp
from lpx.data.datasets.adapter import SPLITS, DatasetInfo, Listing, VideoQuery
from lpx.data.roots import data_roots
from lpx.data.videos import Video, VideoSet
from lpx.data.wording import counted
from lpx.errors import LpxError

# Public data sets by name; "deepfakebench" takes a file, as in "deepfakebench:FILE.json".
KNOWN: dict[str, DatasetInfo] = {
    "ffpp-raw": ffpp.INFO["raw"],
    "ffpp-c23": ffpp.INFO["c23"],
    "ffpp-c40": ffpp.INFO["c40"],
    "celeb-df-v2": celeb_df.INFO,
    "dfdc": dfdc.INFO,
    "dfdcp": dfdcp.INFO,
    "deeperforensics": deeperforensics.INFO,
    "deepfakebench": deepfakebench.INFO,
}
WITH_FILE = "deepfakebench"
# Missing videos, or shared people, that a message names.
_NAMED = 3


def usage(name: str) -> str:
    """Return how to name a data set of `KNOWN`: some need a file."""
    return f"{name}:FILE.json" if name == WITH_FILE else name


def open_videos(
    name: str,
    *,
    root: Path | None = None,
    split: str | None = None,
    methods: tuple[str, ...] = (),
    strict: bool = False,
) -> VideoSet:
    """Find the videos of a data set on disk.

    Args:
        name: A key of `KNOWN`; "deepfakebench:FILE.json", or "deepfakebench:FILE.json@c40" if the
            file lists several compression levels.
        root: The set's folder or one above it, searched before LPX_DATA and lpx.toml.
        split: "train", "val" or "test" by the official lists; None for all. Videos without an
            official split count as test.
        methods: Manipulation methods, in upper or lower case; () for the set's usual ones. Real
            videos are always included.
        strict: Raise an error if a listed video is not on disk.

    Raises:
        InvalidArgumentError: The split is unknown.
        LpxError: The name or a method is unknown; the set is not found; a list is damaged or
            missing; the split has no videos; or `strict`, and videos are missing.
    """
    key, _, argument = name.partition(":")
    if key not in KNOWN or bool(argument) != (key == WITH_FILE):
        raise LpxError(
            f"unknown video data set {name!r}",
            f"known ones: {', '.join(map(usage, KNOWN))}",
            "name one of these",
            code="not-found",
        )
    if split is not None:
        check_choice("split", split, SPLITS)
    info = KNOWN[key]
    listing = info.adapter(VideoQuery(data_roots(root), argument, split, methods))
    _check_names(name, listing)
    _check_split(name, listing, split)
    videos = tuple(video for video in listing.present if _is_in(video.split, split))
    missing = []
    for video in listing.absent:
        if _is_in(video.split, split):
            missing.append(video.name)
    for lost in listing.lost:
        if _is_in(lost.split, split):
            missing.append(lost.name)
    if missing and (strict or not videos):
        raise _missing_error(name, info, listing, videos, missing)
    notes = [*listing.notes]
    if listing.hint and missing:
        notes.append(f"{listing.hint[:1].upper()}{listing.hint[1:]}.")
    notes += _notes(listing, split)
    notes += _one_sided(videos)
    return VideoSet(name, listing.root, videos, tuple(missing), " ".join(notes), listing.crop)


def _missing_error(
    name: str, info: DatasetInfo, listing: Listing, videos: tuple[Video, ...], missing: list[str]
) -> LpxError:
    what, why = f"no video of {name} is on disk", ""
    if videos:
        what = f"{counted(len(videos), 'video')} of {name} are on disk"
        why = "with `strict=True`, no video may be missing"
    what += f"; missing below {listing.root}, {len(missing)} in all:"
    what += "".join(f"\n    {one}" for one in missing[:_NAMED])
    if len(missing) > _NAMED:
        what += f"\n    and {len(missing) - _NAMED} more"
    fix = listing.hint or f"download them: {info.obtained}"
    return LpxError(what, why, fix, code="not-found")


def _is_in(home: str, split: str | None) -> bool:
    return split is None or (home or "test") == split


def _check_names(name: str, listing: Listing) -> None:
    """Check that no video is listed twice, as its crops would overwrite each other."""
    seen: set[str] = set()
    for video in (*listing.present, *listing.absent):
        if video.name in seen:
            raise LpxError(
                f"{name} lists {video.name} twice",
                "a video that counts twice falsifies every result",
                f"copy the lists below {listing.root} again",
                code="damaged",
            )
        seen.add(video.name)


def _check_split(name: str, listing: Listing, split: str | None) -> None:
    """Check that every chosen method has videos in the split, on disk or not."""
    # A test on a split where a method is absent would silently be one of the other methods.
    homes: dict[str, set[str]] = {}
    for video in (*listing.present, *listing.absent):
        homes.setdefault(video.method, set()).add(video.split or "test")
    splits = sorted(set().union(*homes.values()), key=SPLITS.index)
    lost = any(_is_in(one.split, split) for one in listing.lost)
    if lost and not any(_is_in(home, split) for home in splits):
        return  # A list is missing, which open_videos() reports.
    without = [method for method, held in homes.items() if split and split not in held]
    if homes and not without:
        return
    what = f"{name} has no videos"
    if split:
        what += f" for {split}"
    if without:
        what += f" of {', '.join(without)}"
    if not splits:
        raise LpxError(
            what, f"nothing is below {listing.root}", "download the set again", code="not-found"
        )
    raise LpxError(
        what, f"it has videos for {', '.join(splits)}", "name another split or other methods"
    )


def _notes(listing: Listing, split: str | None) -> list[str]:
    """Describe methods without splits, and people who are both in train and test."""
    notes = []
    unsplit = sorted({video.method for video in listing.present if not video.split})
    if unsplit and split:
        notes.append(f"{', '.join(unsplit)}: without official splits, all of it counts as test.")
    shared = sorted(_people(listing.present, "train") & _people(listing.present, "test"))
    if shared:
        named = ", ".join(shared[:_NAMED])
        if len(shared) > _NAMED:
            named += ", ..."
        notes.append(f"{len(shared)} identities are in train and in test: {named}.")
    return notes


def _one_sided(videos: tuple[Video, ...]) -> list[str]:
    """Warn if there are only real or only fake videos, which allow no comparison."""
    labels = {video.label for video in videos}
    notes = []
    for label, word in enumerate(("real", "fake")):
        if label in labels:
            continue
        notes.append(f"No {word} video is on disk.")
    return notes


def _people(videos: tuple[Video, ...], split: str) -> set[str]:
    people: set[str] = set()
    for video in videos:
        if video.split == split:
            people.update(video.identities)
    return people
