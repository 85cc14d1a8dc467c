"""Hair, eyebrows, eyelashes and beards as strands that grow from the mesh.

Roots are drawn on the base mesh, where regions are easy to say in numbers, and carried to the
person's own mesh by their place in a quad; so they follow shape and expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from person import EYES, Mesh, Person, Points

HAIRLINE = np.array(
    [
        [-9.0, 6.35],
        [-0.45, 6.40],
        [-0.20, 6.50],
        [0.05, 6.80],
        [0.22, 7.20],
        [0.40, 7.36],
        [0.60, 7.20],
        [0.68, 7.05],
        [0.82, 7.40],
        [0.95, 7.80],
        [1.15, 7.97],
        [1.40, 8.10],
        [9.0, 8.14],
    ]
)
"""z of a point of the head, and the height above which hair grows there."""


@dataclass(frozen=True)
class Strands:
    """Strands of one colour.

    Attributes:
        points: [S, K, 3], every strand has K points.
        root: Radius at the root, decimetres.
        tip: Radius at the tip.
    """

    points: Points
    root: float
    tip: float


@dataclass(frozen=True)
class Roots:
    """Places on the surface: [N, 3] on the base mesh and the person's, and the latter's normals."""

    base: Points
    points: Points
    normals: Points


def scatter(mesh: Mesh, points: Points, keep: NDArray[np.bool_], count: int, rng) -> Roots:
    """Draw `count` places on the kept quads, evenly by area of the base mesh."""
    quads = mesh.faces[keep]
    corners = mesh.vertices[quads]
    area = np.linalg.norm(
        np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]), axis=1
    )
    chosen = rng.choice(len(quads), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=1)
    own = points[quads[chosen]]
    normals = np.cross(own[:, 2] - own[:, 0], own[:, 3] - own[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    return Roots(
        (mesh.vertices[quads[chosen]] * weights).sum(axis=1), (own * weights).sum(axis=1), normals
    )


def subset(roots: Roots, keep: NDArray[np.bool_]) -> Roots:
    """The kept ones."""
    return Roots(roots.base[keep], roots.points[keep], roots.normals[keep])


def scalp(mesh: Mesh, points: Points, person: Person, ears: NDArray[np.bool_], count: int, rng):
    """Roots of the hair of the head."""
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    roots = scatter(mesh, points, (centres[:, 1] > 6.2) & ~ears, count, rng)
    x, y, z = roots.base.T
    ragged = rng.normal(0, 0.035, len(x))
    temple = person.hairline * np.clip(np.abs(x) / 0.4, 0.6, 1.5) * (z > 0.8)
    line = np.interp(z, *HAIRLINE.T) + temple + ragged
    return subset(roots, (y > line) & (np.abs(x) < 0.95) & (y > 6.2))


def hair_share(base: Points, person: Person) -> NDArray[np.float64]:
    """How much of the skin hair covers at places of the base mesh, 0 to 1."""
    x, y, z = base.T
    temple = person.hairline * np.clip(np.abs(x) / 0.4, 0.6, 1.5) * (z > 0.8)
    line = np.interp(z, *HAIRLINE.T) + temple
    share = _soft(y - line - 0.02, 0.12) * (y > 6.2) * (np.abs(x) < 0.95)
    if person.hair == "bald":
        share = share * _soft(7.75 - y, 0.1) * _soft(0.75 - z, 0.1)
    return share


def grow_hair(roots: Roots, person: Person, nearest, origin: Points, rng) -> Strands:
    """Comb hair of the person's style over the head.

    Args:
        roots: On the scalp.
        person: Style and parting.
        nearest: (x, y, z) -> (point on the surface, its normal).
        origin: Between the eyes.
        rng: Source of every random choice.
    """
    count = len(roots.points)
    style = person.hair
    own = np.random.default_rng((11, person.seed))
    length = {
        "bald": 0.02,
        "cropped": own.uniform(0.06, 0.14),
        "short": own.uniform(0.2, 0.36),
        "swept": own.uniform(0.6, 0.95),
        "bob": own.uniform(1.7, 2.1),
        "long": own.uniform(2.6, 3.4),
    }[style]
    steps = {"bald": 2, "cropped": 3, "short": 7, "swept": 10, "bob": 16, "long": 20}[style]
    lengths = length * rng.uniform(0.75, 1.05, count)
    side = np.where(roots.base[:, 0] > person.parting, 1.0, -1.0)
    if style in ("short", "swept"):
        lean = own.uniform(-1, 1)
        comb = np.stack(
            [
                np.full(count, 0.8 * lean),
                np.full(count, 0.05),
                np.full(count, -0.9 if style == "swept" else -0.4),
            ],
            axis=1,
        )
        weight = 0.16
    else:
        comb = np.stack([side * 1.0, np.full(count, -0.2), np.full(count, -0.55)], axis=1)
        weight = 0.55
    waves = own.uniform(0.0, 0.5) if style in ("bob", "long", "swept") else 0.1
    clump = own.normal(0, 1, (40, 3))
    strands = np.empty((count, steps + 1, 3))
    strands[:, 0] = roots.points - 0.01 * roots.normals
    direction = roots.normals * (0.9 if style in ("cropped", "bald") else 0.4) + 0.6 * comb
    direction += rng.normal(0, 0.18, (count, 3))
    lift = rng.gamma(2.0, 0.025 if style in ("short", "swept") else 0.045, count) + 0.01
    for step in range(steps):
        direction += comb * 0.25 - np.array([0, weight * (step + 1) / 6, 0])
        phase = strands[:, step] @ clump[:3].T * 3.0
        direction += waves * 0.25 * np.sin(phase + step * 0.7)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        new = strands[:, step] + direction * (lengths / steps)[:, None]
        if style not in ("bald", "cropped"):
            for i in range(count):
                place, normal = nearest(new[i])
                off = new[i] - place
                outside = float(off @ normal)
                wanted = min(lift[i], 0.12 * (step + 1))
                if outside < wanted:
                    new[i] = new[i] + normal * (wanted - outside)
            if style in ("bob", "long"):
                # Hair beside the face, not over it.
                local = new - origin
                inside = (local[:, 2] > -0.25) & (local[:, 1] < 0.55)
                gap = 0.66 + 0.25 * lift - np.abs(local[:, 0])
                push = np.where(inside & (gap > 0), gap, 0)
                new[:, 0] += np.where(local[:, 0] > 0, push, -push)
            direction = new - strands[:, step]
        strands[:, step + 1] = new
    thick = {"bald": 0.0015, "cropped": 0.0022}.get(style, 0.0042)
    copies = 1 if style in ("bald", "cropped") else 4
    spread = rng.normal(0, 0.028, (copies, count, 1, 3))
    fan = np.linspace(0.5, 1.2, steps + 1)[None, None, :, None]
    spread[0] = 0
    many = (strands[None] + spread * fan).reshape(-1, steps + 1, 3)
    return Strands(many, thick, thick * 0.4)


def eyebrows(mesh: Mesh, points: Points, person: Person, rng) -> Strands:
    """Both brows."""
    own = np.random.default_rng((12, person.seed))
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    near = (centres[:, 1] > 7.4) & (centres[:, 1] < 7.9) & (centres[:, 2] > 1.0)
    roots = scatter(mesh, points, near, 12000, rng)
    x, y, _ = roots.base.T
    along = (np.abs(x) - 0.13) / own.uniform(0.40, 0.46)
    arch = own.uniform(0.02, 0.07)
    middle = 7.52 + arch * np.sin(np.clip(along, 0, 1) * np.pi * 0.85) * 1.3
    half = own.uniform(0.026, 0.042) * np.clip(1.15 - along * 0.75, 0.2, 1)
    inside = (along > 0) & (along < 1) & (np.abs(y - middle) < half * rng.uniform(0.5, 1.1, len(x)))
    roots = subset(roots, inside & (rng.random(len(x)) < 0.75 * person.brows))
    x = roots.base[:, 0]
    share = np.clip((np.abs(x) - 0.13) / 0.43, 0, 1)
    outward = np.stack([np.sign(x) * (0.35 + 0.65 * share), 0.75 - 1.0 * share, 0 * x], axis=1)
    direction = outward + 0.35 * roots.normals + rng.normal(0, 0.15, (len(x), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    lengths = rng.uniform(0.05, 0.09, (len(x), 1))
    start = roots.points - 0.004 * roots.normals
    flat = start + direction * lengths * 0.5
    end = start + direction * lengths - roots.normals * 0.012
    return Strands(np.stack([start, flat, end], axis=1), 0.0020, 0.0008)


def eyelashes(points: Points, quads: NDArray[np.int64], rng) -> Strands:
    """Lashes along the strips that MakeHuman has for them."""
    out = []
    for eye in EYES:
        centre = points[eye].mean(axis=0)
        for quad in quads:
            corners = points[quad]
            if abs(corners[:, 0].mean() - centre[0]) > 0.3:
                continue
            order = np.argsort(np.linalg.norm(corners - centre, axis=1))
            a, b = corners[order[:2]]
            c, d = corners[order[2:]]
            if np.linalg.norm(a - c) > np.linalg.norm(a - d):
                c, d = d, c
            for share in rng.random(2):
                start, end = a + share * (b - a), c + share * (d - c)
                out.append(np.stack([start, (start + end) / 2, end]))
    return Strands(np.array(out), 0.0016, 0.0007)


def beard(mesh: Mesh, points: Points, person: Person, lips: NDArray[np.bool_], rng) -> Strands:
    """Beard and moustache."""
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    keep = (centres[:, 1] < 7.1) & (centres[:, 1] > 5.9) & (centres[:, 2] > 0.3) & ~lips
    roots = scatter(mesh, points, keep, 14000, rng)
    roots = subset(roots, rng.random(14000) < beard_share(roots.base))
    count = len(roots.points)
    length = person.beard * rng.uniform(0.6, 1.2, (count, 1))
    direction = roots.normals * 0.7 + np.array([0, -0.6, 0]) + rng.normal(0, 0.25, (count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    start = roots.points - 0.004 * roots.normals
    bent = direction + np.array([0, -0.35, 0])
    return Strands(
        np.stack([start, start + direction * length * 0.5, start + bent * length], axis=1),
        0.0018,
        0.0008,
    )


def beard_share(base: Points) -> NDArray[np.float64]:
    """How densely a beard grows at places of the base mesh, 0 to 1."""
    x, y, z = np.abs(base[:, 0]), base[:, 1], base[:, 2]
    jaw = _soft(6.62 + 0.35 * np.clip(x - 0.35, 0, 1) - y, 0.06) * _soft(y - 6.02, 0.05)
    burns = _soft(x - 0.55, 0.04) * _soft(7.0 - y, 0.06) * _soft(z - 0.42, 0.06)
    above = _soft(0.30 - x, 0.04) * _soft(y - 6.70, 0.02) * _soft(6.86 - y, 0.025)
    chin = _soft(0.34 - x, 0.05) * _soft(6.62 - y, 0.05) * _soft(y - 6.1, 0.05)
    return np.clip(np.maximum.reduce([jaw * _soft(z - 0.35, 0.05), burns, above, chin]), 0, 1)


def _soft(value: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    return np.clip(value / width * 0.5 + 0.5, 0, 1)
