"""Procedural scenes with known truth: a background, one to three objects, and the category of every pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from aligncut_cli.errors import UsageError

Floats = NDArray[np.floating]
Rng = np.random.Generator

SIZE = 112  # pixels, both ways
OVERSAMPLE = 2  # drawn at twice the size and averaged, so that edges are smooth
CATEGORIES = ("face", "person", "fish", "ball", "box", "flower", "tree", "sign")  # mask value k + 1; 0 is background
BACKGROUNDS = ("meadow", "room", "grass", "water", "bricks", "sand")
TEXTURES = ("plain", "dots", "blotches")
# The shipped models were trained on the scenes of this seed and no other: scenes of any other seed are new to them.
TRAINING_SEED = 402_018


@dataclass(frozen=True)
class SceneObject:
    """One object as it was drawn.

    x, y   : centre, as a share of the picture's width and height
    size   : radius as a share of the picture's width
    angle  : radians, clockwise
    hue    : main colour, 0 to 1 around the colour circle
    area   : share of the picture's pixels where it is seen (not hidden by the others)
    """

    category: str
    x: float
    y: float
    size: float
    angle: float
    hue: float
    texture: str
    area: float


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it.

    image   : uint8 (112, 112, 3)
    mask    : uint8 (112, 112), 0 background, k + 1 for CATEGORIES[k]
    objects : back to front
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    background: str


def make_scene(seed: int, index: int, visit: int = 0) -> Scene:
    """Draw scene number `index` of a seed; it does not depend on which others are drawn.

    visit : 1 and more draw the same place on another day: the same kinds of things, as large and in the same places and
            kind of surroundings, but other ones, in other colours and light
    """
    if min(seed, index, visit) < 0:
        raise UsageError(f"scene seed {seed}, index {index}, visit {visit}: all must be 0 or more")
    rng = np.random.default_rng([seed, index, SIZE])
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    canvas = _BACKGROUND_PAINTERS[background](rng, SIZE * OVERSAMPLE)
    plans = _plan_objects(rng)
    if visit:
        rng = np.random.default_rng([seed, index, SIZE, visit])
        canvas = _BACKGROUND_PAINTERS[background](rng, SIZE * OVERSAMPLE)
        plans = [
            replace(plan, hue=float(rng.random()), texture=TEXTURES[rng.integers(len(TEXTURES))]) for plan in plans
        ]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    placed: list[SceneObject] = []
    for plan in plans:
        alpha = _draw_object(canvas, plan, rng)
        covered = alpha.reshape(SIZE, OVERSAMPLE, SIZE, OVERSAMPLE).mean(axis=(1, 3)) >= 0.5
        mask[covered] = CATEGORIES.index(plan.category) + 1
        placed.append(plan)
    canvas *= _draw_light(rng, SIZE * OVERSAMPLE)
    picture = canvas.reshape(SIZE, OVERSAMPLE, SIZE, OVERSAMPLE, 3).mean(axis=(1, 3))
    image = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    seen = tuple(_with_area(plan, mask) for plan in placed)
    return Scene(image=image, mask=mask, objects=seen, background=background)


def write_scenes(folder: Path, n: int, seed: int) -> list[Scene]:
    """Write images/scene-0000.png, masks/scene-0000.png (a value k is line k of classes.txt, from 0), and so on."""
    if n < 1:
        raise UsageError(f"{n} scenes: at least one is needed")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(("background", *CATEGORIES)) + "\n", encoding="utf-8")
    scenes = []
    for index in range(n):
        scene = make_scene(seed, index)
        Image.fromarray(scene.image).save(folder / "images" / f"scene-{index:04d}.png")
        mask = Image.fromarray(scene.mask)
        mask.putpalette(_MASK_PALETTE)
        mask.save(folder / "masks" / f"scene-{index:04d}.png")
        scenes.append(scene)
    return scenes


_MASK_PALETTE = [
    *(20, 22, 30),
    *(245, 133, 102),
    *(232, 196, 72),
    *(88, 168, 222),
    *(214, 92, 160),
    *(150, 118, 216),
    *(240, 160, 200),
    *(92, 178, 100),
    *(236, 236, 224),
]


# Where objects go


# Radius by the number of objects, least and most, as a share of the picture's width.
_RADIUS = {1: (0.2, 0.42), 2: (0.17, 0.3), 3: (0.15, 0.22)}


def _plan_objects(rng: Rng) -> list[SceneObject]:
    """Choose one to three objects of different categories; they may hide a part of each other."""
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    kinds = rng.choice(len(CATEGORIES), count, replace=False)
    plans: list[SceneObject] = []
    for kind in kinds:
        category = CATEGORIES[kind]
        size = rng.uniform(*_RADIUS[count])
        x, y = _place(rng, size, plans)
        tilt = np.pi if category in ("ball", "flower", "box") else 0.35
        plans.append(
            SceneObject(
                category=category,
                x=x,
                y=y,
                size=float(size),
                angle=float(rng.uniform(-tilt, tilt)),
                hue=float(rng.random()),
                texture=TEXTURES[rng.integers(len(TEXTURES))],
                area=0.0,
            )
        )
    return plans


def _place(rng: Rng, size: float, others: list[SceneObject]) -> tuple[float, float]:
    best, best_gap = (0.5, 0.5), -np.inf
    for _ in range(25):
        x, y = rng.uniform(size * 0.8, 1 - size * 0.8, 2)
        gap = min((np.hypot(x - o.x, y - o.y) - 0.8 * (size + o.size) for o in others), default=0.0)
        if gap >= 0:
            return float(x), float(y)
        if gap > best_gap:
            best, best_gap = (float(x), float(y)), gap
    return best


def _with_area(plan: SceneObject, mask: NDArray[np.uint8]) -> SceneObject:
    area = float((mask == CATEGORIES.index(plan.category) + 1).mean())
    return replace(plan, area=area)


def _draw_object(canvas: Floats, plan: SceneObject, rng: Rng) -> Floats:
    """Paint one object and its shadow onto the canvas; return its coverage (n, n), 0 to 1."""
    n = canvas.shape[0]
    scale = plan.size * n
    top, bottom = _window(plan.y * n, scale * 1.35, n)
    left, right = _window(plan.x * n, scale * 1.35, n)
    rows, cols = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
    dx, dy = (cols - plan.x * n) / scale, (rows - plan.y * n) / scale
    cos, sin = np.float32(np.cos(plan.angle)), np.float32(np.sin(plan.angle))
    paint = _Paint(cos * dx + sin * dy, -sin * dx + cos * dy, 1 / scale, light=_turn(-0.5, -0.75, cos, sin))
    _OBJECT_PAINTERS[plan.category](paint, plan, rng)
    window = canvas[top:bottom, left:right]
    shadow = gaussian_filter(paint.alpha, scale * 0.07, truncate=2.5)
    drop = round(scale * 0.09)
    shadow = np.pad(shadow, ((drop, 0), (drop // 2, 0)))[: shadow.shape[0], : shadow.shape[1]]
    window *= 1 - 0.42 * shadow[..., None]
    window += (paint.rgb - window) * paint.alpha[..., None]
    coverage = np.zeros((n, n), np.float32)
    coverage[top:bottom, left:right] = paint.alpha
    return coverage


def _window(centre: float, reach: float, n: int) -> tuple[int, int]:
    return max(0, int(centre - reach)), min(n, int(centre + reach) + 2)


def _turn(x: float, y: float, cos: np.float32, sin: np.float32) -> tuple[float, float]:
    return float(cos * x + sin * y), float(-sin * x + cos * y)


class _Paint:
    """A small canvas in an object's own coordinates: u right, v down, about 1 at its rim.

    Shapes are signed distances (negative inside), so that edges are smooth at any size and turn.
    """

    def __init__(self, u: Floats, v: Floats, pixel: float, light: tuple[float, float]) -> None:
        self.u, self.v, self.pixel, self.light = u, v, pixel, light
        self.rgb = np.zeros((*u.shape, 3), np.float32)
        self.alpha = np.zeros(u.shape, np.float32)

    def fill(self, distance: Floats, colour: Floats, *, opacity: float = 1.0) -> None:
        """Cover the inside of a shape with a colour (3) or a coloured texture (h, w, 3)."""
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)[..., None] * np.float32(opacity)
        self.rgb += (colour - self.rgb) * cover
        self.alpha = np.maximum(self.alpha, cover[..., 0])

    def circle(self, x: float, y: float, radius: float) -> Floats:
        distance: Floats = np.hypot(self.u - x, self.v - y) - np.float32(radius)
        return distance

    def ellipse(self, x: float, y: float, a: float, b: float) -> Floats:
        distance: Floats = (np.hypot((self.u - x) / a, (self.v - y) / b) - 1) * np.float32(min(a, b))
        return distance

    def rectangle(self, x: float, y: float, a: float, b: float, corner: float) -> Floats:
        du, dv = np.abs(self.u - x) - (a - corner), np.abs(self.v - y) - (b - corner)
        outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
        distance: Floats = outside + np.minimum(np.maximum(du, dv), 0) - np.float32(corner)
        return distance

    def limb(self, start: tuple[float, float], end: tuple[float, float], radius: float) -> Floats:
        (x0, y0), (x1, y1) = start, end
        ex, ey = x1 - x0, y1 - y0
        along = np.clip(((self.u - x0) * ex + (self.v - y0) * ey) / (ex * ex + ey * ey), 0, 1)
        distance: Floats = np.hypot(self.u - x0 - along * ex, self.v - y0 - along * ey) - np.float32(radius)
        return distance

    def polygon(self, corners: list[tuple[float, float]]) -> Floats:
        """Distance to a convex polygon whose corners go clockwise (v points down)."""
        edges = []
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = float(np.hypot(x1 - x0, y1 - y0))
            edges.append(((self.u - x0) * (y1 - y0) - (self.v - y0) * (x1 - x0)) / length)
        distance: Floats = np.maximum.reduce(edges).astype(np.float32)
        return distance

    def round_shading(self, x: float, y: float, a: float, b: float) -> Floats:
        """Brightness (h, w, 1) of an ellipsoid lit from the picture's top left."""
        nx, ny = (self.u - x) / a, (self.v - y) / b
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
        lambert = np.clip(nx * self.light[0] + ny * self.light[1] + nz * 0.7, 0, 1.2)
        brightness: Floats = (0.5 + 0.55 * lambert)[..., None].astype(np.float32)
        return brightness


# Colours and textures


def _hsv(hue: float, saturation: float, value: float) -> Floats:
    sector = (hue % 1.0) * 6 + np.array([5, 3, 1])
    wedge = np.clip(np.minimum(sector % 6, 4 - sector % 6), 0, 1)
    return (value * (1 - saturation * wedge)).astype(np.float32)


def _noise(rng: Rng, height: int, width: int, cells_v: int, cells_u: int) -> Floats:
    """Smooth noise (height, width), about -1 to 1, with so many bumps down and across."""
    grid = rng.uniform(-1, 1, (cells_v + 2, cells_u + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _clouds(rng: Rng, n: int, cells: int) -> Floats:
    return sum((_noise(rng, n, n, cells * 2**k, cells * 2**k) * 0.5**k for k in range(4)), np.zeros((n, n), np.float32))


def _step(x: Floats, width: float | Floats) -> Floats:
    """0 to 1 where x passes 0, smooth over a width."""
    share: Floats = np.clip(x / width + 0.5, 0, 1).astype(np.float32)
    return share


def _mix(a: Floats, b: Floats, share: Floats) -> Floats:
    mixed: Floats = a + (b - a) * share[..., None]
    return mixed


def _coat(paint: _Paint, plan: SceneObject, rng: Rng, *, saturation: float = 0.6, value: float = 0.9) -> Floats:
    """Colour of an object's surface (h, w, 3): plain, dotted or blotched in a second colour."""
    main = _hsv(plan.hue, saturation * rng.uniform(0.75, 1.25), value * rng.uniform(0.85, 1.08))
    second = _hsv(plan.hue + rng.uniform(0.12, 0.88), saturation * 0.8, rng.uniform(0.35, 1.0))
    height, width = paint.u.shape
    plain = np.broadcast_to(main, (height, width, 3)).astype(np.float32)
    if plan.texture == "dots":
        pitch = rng.uniform(0.3, 0.42)
        row = np.round(paint.v / pitch)
        du = (paint.u / pitch + 0.5 * (row % 2) + 0.5) % 1 - 0.5
        dots = np.hypot(du, paint.v / pitch - row) * pitch - pitch * 0.27
        return _mix(plain, second, _step(-dots, paint.pixel))
    if plan.texture == "blotches":
        bumps = _noise(rng, height, width, 6, 6)
        return _mix(plain, second, 0.85 * _step(bumps - 0.12, 0.12))
    return plain


def _stripes(along: Floats, pitch: float, depth: float) -> Floats:
    """Brightness (h, w, 1) of a weave or grain: soft lines, so far apart and so dark, across a coordinate (h, w)."""
    lines: Floats = (1 - depth * (0.5 + 0.5 * np.cos(2 * np.pi * along / pitch)))[..., None].astype(np.float32)
    return lines


# Objects: each category has a material of its own (strands, weave, scales, seams, grain, veins, leaves, letters),
# in any colour, so that its patches can be told apart by texture and the whole by its shape.


def _draw_face(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    skin = _hsv(plan.hue, rng.uniform(0.25, 0.6), rng.uniform(0.75, 1.0))
    dark = _hsv(rng.random(), 0.6, rng.uniform(0.15, 0.4))
    wide = rng.uniform(0.72, 0.86)
    for side in (-1, 1):
        p.fill(p.circle(side * wide, 0.05, 0.17), skin * 0.82)
    strands = _stripes(np.arctan2(p.v - 0.1, p.u), 0.16, 0.55)
    p.fill(p.ellipse(0, -0.18, wide + 0.09, 0.82), _coat(p, plan, rng, value=0.7) * strands)  # hair
    p.fill(p.ellipse(0, 0.06, wide, 0.92), skin * p.round_shading(0, 0.06, wide, 0.95))
    fringe = np.maximum(p.ellipse(0, 0.06, wide, 0.92), p.v + rng.uniform(0.42, 0.55) + 0.08 * np.cos(5 * p.u))
    p.fill(fringe, (_hsv(plan.hue + 0.5, 0.5, 0.4) if plan.texture == "plain" else dark * 1.2) * strands)
    apart, eye = rng.uniform(0.3, 0.37), rng.uniform(0.15, 0.19)
    look_u, look_v = rng.uniform(-0.05, 0.05, 2)
    for side in (-1, 1):
        p.fill(p.ellipse(side * apart, -0.1, eye, eye * 1.1), np.ones(3, np.float32))
        p.fill(p.circle(side * apart + look_u, -0.08 + look_v, eye * 0.58), dark)
        p.fill(p.limb((side * (apart - 0.15), -0.36), (side * (apart + 0.14), -0.33), 0.045), dark)
    p.fill(p.limb((0, 0.08), (0, 0.24), 0.06), skin * 0.68)
    smile = np.maximum(np.abs(p.circle(0, 0.16, 0.4)) - 0.06, 0.4 - p.v)
    p.fill(smile, np.array([0.72, 0.16, 0.2], np.float32))


def _draw_person(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    skin = _hsv(rng.uniform(0.02, 0.1), rng.uniform(0.25, 0.6), rng.uniform(0.5, 1.0))
    shirt = _coat(p, plan, rng) * p.round_shading(-0.1, -0.1, 0.7, 0.9) * _stripes(p.v, 0.15, 0.55)
    trousers = _hsv(plan.hue + rng.uniform(0.3, 0.7), 0.45, rng.uniform(0.4, 0.8)) * _stripes(p.u, 0.11, 0.4)
    spread = rng.uniform(0.16, 0.34)
    for side in (-1, 1):
        foot = (side * spread, 0.96)
        p.fill(p.limb((side * 0.13, 0.32), foot, 0.125), trousers * (0.85 if side > 0 else 1.0))
        p.fill(p.limb(foot, (foot[0] + 0.1, 0.98), 0.09), trousers * 0.4)
    for side in (-1, 1):
        lift = rng.uniform(-0.7, 1.25)
        hand = (side * (0.26 + 0.46 * np.cos(lift)), -0.3 + 0.46 * np.sin(lift))
        p.fill(p.limb((side * 0.24, -0.3), hand, 0.1), shirt * 0.88)
        p.fill(p.circle(*hand, 0.105), skin)
    p.fill(p.rectangle(0, 0.0, 0.3, 0.42, 0.16), shirt)
    p.fill(p.circle(0, -0.66, 0.27), skin * p.round_shading(0, -0.66, 0.27, 0.27))
    p.fill(np.maximum(p.circle(0, -0.68, 0.285), p.v + 0.7), _hsv(rng.uniform(0.02, 0.14), 0.6, rng.uniform(0.1, 0.6)))


def _draw_fish(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    if rng.random() < 0.5:
        p.u = -p.u
        p.light = (-p.light[0], p.light[1])
    coat = _coat(p, plan, rng, saturation=0.75)
    tall = rng.uniform(0.42, 0.56)
    fin = _hsv(plan.hue + 0.08, 0.8, 0.75)
    ribs = (0.85 + 0.15 * np.sin(34 * np.arctan2(p.v, p.u - 0.2)))[..., None]
    p.fill(p.polygon([(0.42, 0.0), (0.98, -0.52), (0.84, 0.0)]), fin * ribs)
    p.fill(p.polygon([(0.42, 0.0), (0.84, 0.0), (0.98, 0.52)]), fin * ribs)
    p.fill(p.polygon([(-0.3, -tall * 0.7), (0.12, -tall - 0.28), (0.3, -tall * 0.55)]), fin * ribs)
    p.fill(p.polygon([(-0.05, tall * 0.6), (0.22, tall * 0.6), (0.3, tall + 0.2)]), fin * ribs)
    row = np.round(p.v / 0.15)
    scales = np.hypot((p.u / 0.19 + 0.5 * (row % 2)) % 1 - 0.15, p.v / 0.15 - row)
    body = coat * (1 - 0.5 * _step(scales - 0.72, 0.2))[..., None] * p.round_shading(-0.15, 0, 0.82, tall)
    belly = _mix(body, np.ones(3, np.float32), 0.5 * _step(p.v - tall * 0.35, 0.25))
    p.fill(p.ellipse(-0.15, 0, 0.82, tall), belly)
    gill = np.maximum(np.abs(p.circle(-0.86, 0, 0.42)) - 0.03, np.hypot(p.u + 0.45, p.v) - 0.26)
    p.fill(gill, fin * 0.6, opacity=0.8)
    p.fill(p.circle(-0.64, -0.12, 0.12), np.ones(3, np.float32))
    p.fill(p.circle(-0.66, -0.12, 0.065), np.full(3, 0.06, np.float32))


def _draw_ball(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    coat = _coat(p, plan, rng, saturation=0.8)
    if plan.texture == "plain":  # a beach ball's wedges
        wedge = np.sin(3 * (np.arctan2(p.v, p.u) + 0.7 * np.hypot(p.u, p.v)))
        coat = _mix(coat, np.array([0.97, 0.96, 0.92], np.float32), _step(wedge, 0.12))
    p.fill(p.circle(0, 0, 0.94), coat * p.round_shading(0, 0, 0.94, 0.94) ** 1.3)
    seams = [p.u, p.v, p.circle(1.15, 0, 0.85), p.circle(-1.15, 0, 0.85)]
    for seam in seams:  # those of a basketball
        p.fill(np.maximum(np.abs(seam) - 0.035, p.circle(0, 0, 0.94)), np.full(3, 0.08, np.float32), opacity=0.85)
    glint = np.exp(-((p.u - 0.52 * p.light[0]) ** 2 + (p.v - 0.52 * p.light[1]) ** 2) / 0.03)
    p.fill(p.circle(0, 0, 0.94), _mix(p.rgb, np.ones(3, np.float32), (0.75 * glint).astype(np.float32)))


def _draw_box(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    coat = _coat(p, plan, rng, saturation=0.65, value=0.95)
    half, tall = 0.84, 0.46
    faces: list[tuple[float, float, list[tuple[float, float]]]] = [  # brightness, slope of the grain, corners
        (1.08, 0.55, [(0.0, -0.95), (half, -tall), (0.0, 0.0), (-half, -tall)]),
        (0.8, 0.55, [(-half, -tall), (0.0, 0.0), (0.0, 0.95), (-half, tall)]),
        (0.52, -0.55, [(0.0, 0.0), (half, -tall), (half, tall), (0.0, 0.95)]),
    ]
    for brightness, slope, corners in faces:
        grain = _stripes(p.v - slope * p.u, 0.19, 0.4)  # corrugated board
        p.fill(p.polygon(corners) - p.pixel * 0.5, coat * grain * np.float32(brightness))
    edge = _hsv(plan.hue + 0.05, 0.3, 1.0)
    for end in ((-half, -tall), (half, -tall), (0.0, 0.95)):
        p.fill(p.limb((0.0, 0.0), end, 0.03), edge, opacity=0.8)
    for start, end in (((0.42, -0.7), (-0.42, -0.23)), ((-0.42, -0.23), (-0.42, 0.7))):  # packing tape
        p.fill(p.limb(start, end, 0.085), edge * 0.85, opacity=0.75)


def _draw_flower(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    petals = int(rng.integers(5, 8))
    radius, angle = np.hypot(p.u, p.v), np.arctan2(p.v, p.u)
    coat = _coat(p, plan, rng, saturation=0.55, value=1.0)
    for layer, (reach, phase) in enumerate(((0.96, 0.0), (0.68, np.pi / petals))):
        lobe = np.abs(np.cos(petals * (angle + phase) / 2)).astype(np.float32)
        rim = reach * (0.42 + 0.58 * lobe**0.8)
        veins = 0.8 + 0.2 * np.cos(petals * 6 * angle)
        shade = (0.55 + 0.45 * np.clip(radius / reach, 0, 1)) * veins * (0.72 + 0.28 * lobe) * (1.0 if layer else 0.85)
        p.fill(((radius - rim) * 0.8).astype(np.float32), coat * shade[..., None].astype(np.float32))
    seeds = 0.8 + 0.2 * np.sin(40 * p.u) * np.sin(40 * p.v)
    heart = _hsv(rng.uniform(0.08, 0.16), 0.8, rng.uniform(0.45, 1.0))
    p.fill(p.circle(0, 0, 0.26), heart * p.round_shading(0, 0, 0.26, 0.26) * seeds[..., None].astype(np.float32))


def _draw_tree(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    height, width = p.u.shape
    bark = _hsv(rng.uniform(0.04, 0.1), 0.5, rng.uniform(0.3, 0.6)) * (0.85 + 0.2 * np.sin(45 * p.u))[..., None]
    p.fill(p.polygon([(-0.09, -0.1), (0.09, -0.1), (0.18, 0.98), (-0.18, 0.98)]), bark.astype(np.float32))
    p.fill(p.limb((0.0, 0.35), (0.36, -0.05), 0.055), bark.astype(np.float32))
    leaves = _noise(rng, height, width, 22, 22) * 0.7 + _noise(rng, height, width, 40, 40) * 0.5
    green = _hsv(plan.hue, rng.uniform(0.4, 0.75), rng.uniform(0.55, 0.95))
    light = _hsv(plan.hue - 0.06, 0.45, 1.0)
    crown = [(0.0, -0.15, 0.5), (-0.45, -0.12, 0.38), (0.45, -0.14, 0.38), (-0.22, -0.52, 0.4), (0.25, -0.55, 0.38)]
    for x, y, r in crown:
        r = r * rng.uniform(0.9, 1.08)
        tuft = p.circle(x, y, r) + 0.07 * leaves
        speckled = _mix(green * p.round_shading(x, y, r, r), light, 0.75 * _step(leaves - 0.3, 0.3))
        speckled = speckled * (1 - 0.45 * _step(-leaves - 0.25, 0.3))[..., None]
        p.fill(tuft, speckled * p.round_shading(0, -0.3, 0.95, 0.75))


def _draw_sign(p: _Paint, plan: SceneObject, rng: Rng) -> None:
    """Draw a board with lines of word-like strokes: fine stripes, in any colours."""
    board, ink = _hsv(plan.hue, rng.uniform(0.08, 0.4), 0.97), _hsv(rng.random(), 0.7, 0.25)
    if plan.texture == "blotches":
        board, ink = ink * 1.5, board
    tall = rng.uniform(0.58, 0.74)
    p.fill(p.rectangle(0, 0, 0.97, tall, 0.1), ink * 0.8)
    p.fill(p.rectangle(0, 0, 0.91, tall - 0.06, 0.07), board * (1.0 - 0.12 * p.v)[..., None])
    lines = int(rng.integers(3, 5))
    pitch = 2 * (tall - 0.14) / lines
    for line in range(lines):
        v = -tall + 0.14 + pitch * (line + 0.5)
        u, end = -0.8, rng.uniform(0.45, 0.84)
        while u < end:
            for _ in range(int(rng.integers(2, 6))):  # the letters of a word
                rise = pitch * rng.choice([0.2, 0.3, 0.36])
                p.fill(p.rectangle(u, v, 0.034, rise, 0.02), ink)
                if rng.random() < 0.4 and u + 0.12 < end:
                    bar = v + rise * rng.choice([-0.8, 0.0, 0.8])
                    p.fill(p.rectangle(u + 0.06, bar, 0.07, 0.028, 0.01), ink)
                u += 0.125
                if u >= end:
                    break
            u += 0.085


_OBJECT_PAINTERS: dict[str, Callable[[_Paint, SceneObject, Rng], None]] = {
    "face": _draw_face,
    "person": _draw_person,
    "fish": _draw_fish,
    "ball": _draw_ball,
    "box": _draw_box,
    "flower": _draw_flower,
    "tree": _draw_tree,
    "sign": _draw_sign,
}


# Light and backgrounds


def _draw_light(rng: Rng, n: int) -> Floats:
    """Brightness (n, n, 3) of the hour: dim or bright, tinted, and falling off in some direction."""
    x, y = _grid(n)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    slope = 1 + fall * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    light = rng.uniform(0.75, 1.1) * slope[..., None] * (1 + rng.uniform(-0.08, 0.08, 3))
    return np.asarray(light, np.float32)


def _grid(n: int) -> tuple[Floats, Floats]:
    """Coordinates x (1, n) and y (n, 1), 0 to 1, of the pixel centres."""
    line = (np.arange(n, dtype=np.float32) + 0.5) / n
    return line[None, :], line[:, None]


def _draw_meadow(rng: Rng, n: int) -> Floats:
    x, y = _grid(n)
    horizon = rng.uniform(0.42, 0.66)
    hour = rng.random()  # noon is blue, evening warm
    high, low = _hsv(0.58 + 0.12 * hour, 0.62, 0.9 - 0.35 * hour), _hsv(0.55 - 0.5 * hour, 0.22 + 0.3 * hour, 0.98)
    sky = _mix(np.broadcast_to(high, (n, n, 3)).astype(np.float32), low, np.clip(y / horizon, 0, 1) * np.ones_like(x))
    puffs = _clouds(rng, n, 4) + 0.2 - 0.5 * np.abs(y - horizon * 0.45)
    canvas = _mix(sky, np.array([1, 0.98, 0.96], np.float32), 0.85 * _step(puffs - 0.25, 0.5))
    hue = rng.uniform(0.16, 0.38)
    for depth, rise in enumerate((0.13, 0.07, 0.0)):
        bumps = _noise(rng, 1, n, 1, 4 + 2 * depth)[:1] * (0.045 - 0.012 * depth)
        land = _step(y - (horizon - rise + bumps), 2.0 / n)
        tone = _hsv(hue + 0.14 - 0.07 * depth, 0.3 + 0.14 * depth, 0.6 + 0.08 * depth - 0.15 * hour)
        canvas = _mix(canvas, tone, land)
    blades = _noise(rng, n, n, 26, 60) * 0.09 + _clouds(rng, n, 5) * 0.08
    ground = _step(y - horizon - 0.02, 0.04)
    shade: Floats = 1 + ground * (blades + 0.25 * (y - horizon))
    return canvas * shade[..., None]


def _draw_room(rng: Rng, n: int) -> Floats:
    x, y = _grid(n)
    horizon, eye = rng.uniform(0.45, 0.64), rng.uniform(0.3, 0.7)
    wall = _hsv(rng.random(), rng.uniform(0.1, 0.4), rng.uniform(0.65, 0.95))
    canvas = np.broadcast_to(wall, (n, n, 3)) * (1.06 - 0.28 * np.hypot(x - 0.35, y * 0.8 - 0.1))[..., None]
    panels = np.abs(((x - eye) * 4.5) % 1 - 0.5) * np.ones_like(y)
    canvas = canvas * (1 - 0.07 * _step(panels - 0.47, 0.04))[..., None]
    depth = 1 / np.maximum(y - horizon + 0.1, 0.02)  # perspective: rows of tiles get narrower with distance
    tiles = 0.55 * rng.uniform(0.8, 1.2)
    across, along = (x - eye) * depth * tiles * 1.6 + 50, depth * tiles * 2.2 + rng.random() * np.ones_like(x)
    blur = np.maximum(depth * depth * tiles * 2.2 * 1.5 / n, 0.02)
    checker = np.clip(np.sin(np.pi * across) / (3 * blur), -1, 1) * np.clip(np.sin(np.pi * along) / (3 * blur), -1, 1)
    hue = rng.random()
    pale, deep = _hsv(hue, rng.uniform(0.05, 0.3), 0.92), _hsv(hue + rng.uniform(-0.1, 0.1), 0.5, rng.uniform(0.3, 0.6))
    floor = _mix(np.broadcast_to(pale, (n, n, 3)).astype(np.float32), deep, (0.5 + 0.5 * checker).astype(np.float32))
    floor = floor * (0.75 + 0.5 * (y - horizon))[..., None]
    canvas = _mix(canvas, floor, _step(y - horizon, 1.0 / n) * np.ones_like(x))
    board = _step(0.018 - np.abs(y - horizon + 0.018), 1.0 / n) * np.ones_like(x)
    return _mix(canvas, np.clip(wall * 1.25, 0, 1), board).astype(np.float32)


def _draw_grass(rng: Rng, n: int) -> Floats:
    """Draw grass from close by: blades from back to front."""
    hue, dry = rng.uniform(0.17, 0.4), rng.uniform(0.35, 0.75)
    picture = Image.new("RGB", (n, n), tuple(int(c * 255) for c in _hsv(hue, dry, 0.22)))
    pen = ImageDraw.Draw(picture)
    count = 420
    roots = np.linspace(-0.02, 1.22, count) * n
    xs, leans, talls = (
        rng.uniform(-0.05, 1.05, count) * n,
        rng.normal(0, 0.09, count) * n,
        rng.uniform(0.12, 0.24, count) * n,
    )
    tones = rng.uniform(0.35, 0.9, count)
    hues = hue + rng.normal(0, 0.025, count)
    for root, x, lean, tall, tone, tint in zip(roots, xs, leans, talls, tones, hues, strict=True):
        colour = tuple(int(c * 255) for c in _hsv(tint, dry, tone))
        middle = (x + lean * 0.35, root - tall * 0.6)
        pen.polygon(
            [
                (x - 2.2, root),
                (middle[0] - 1.6, middle[1]),
                (x + lean, root - tall),
                (middle[0] + 1.6, middle[1]),
                (x + 2.2, root),
            ],
            fill=colour,
        )
    canvas = np.asarray(picture, np.float32) / 255
    return canvas * (1 + 0.2 * _clouds(rng, n, 3))[..., None]


def _draw_water(rng: Rng, n: int) -> Floats:
    x, y = _grid(n)
    hue = rng.uniform(0.46, 0.68)
    warp = _clouds(rng, n, 4)
    row = 26 * (y + 0.15) ** 0.7  # waves get longer towards the viewer
    swell = np.sin(2 * np.pi * (row * 0.55 + 0.55 * warp + 0.35 * np.sin(9 * x + rng.uniform(0, 6))))
    ripple = np.sin(2 * np.pi * (row * 1.3 + 0.8 * warp + _noise(rng, n, n, 9, 9)))
    deep, pale = _hsv(hue, 0.75, rng.uniform(0.4, 0.62)), _hsv(hue - 0.06, 0.42, rng.uniform(0.8, 0.98))
    height = 0.32 * swell + 0.16 * ripple + 0.1 * warp
    canvas = _mix(
        np.broadcast_to(deep, (n, n, 3)).astype(np.float32), pale, np.clip(0.45 + height, 0, 1) * np.ones_like(x)
    )
    sun = _hsv(rng.uniform(0.05, 0.16), rng.uniform(0.05, 0.4), 1.0)
    glitter = _step(height + 0.25 * _noise(rng, n, n, 30, 18) - 0.42, 0.12) * np.exp(
        -(((x - rng.uniform(0.2, 0.8)) / 0.4) ** 2)
    )
    return _mix(canvas, sun, 0.85 * glitter).astype(np.float32)


def _draw_bricks(rng: Rng, n: int) -> Floats:
    x, y = _grid(n)
    rows = rng.uniform(8, 12)
    v = y * rows + rng.random()
    course = np.floor(v)
    u = x * rows * 0.45 + 0.5 * (course % 2) + rng.random()
    number = np.floor(u)
    du, dv = np.minimum(u - number, 1 - (u - number)) / 0.45, np.minimum(v - course, 1 - (v - course)) * np.ones_like(x)
    gap = np.minimum(du, dv)
    wobble = rng.uniform(-1, 1, (32, 32)).astype(np.float32)[course.astype(int) % 32, number.astype(int) % 32]
    hue = rng.choice([0.02, 0.05, 0.09, 0.6]) + rng.uniform(-0.03, 0.03)
    saturation, value = rng.uniform(0.25, 0.65), rng.uniform(0.5, 0.8)
    stone = _hsv(hue, saturation, value) * (1 + 0.2 * wobble + 0.1 * _clouds(rng, n, 14))[..., None]
    bevel = _step(0.2 - gap, 0.12) * (np.where(v - course < 0.5, 0.16, -0.2))
    stone = stone * (1 + bevel)[..., None]
    mortar = _hsv(hue + 0.03, 0.12, rng.uniform(0.55, 0.88)) * (1 + 0.1 * _noise(rng, n, n, 60, 60))[..., None]
    return _mix(stone, mortar, _step(0.085 - gap, 2.5 * rows / n)).astype(np.float32)


def _draw_sand(rng: Rng, n: int) -> Floats:
    """Draw wind ripples on sand, with a few pebbles."""
    x, y = _grid(n)
    angle, warp = rng.uniform(-0.6, 0.6), _clouds(rng, n, 3)
    across = np.cos(angle) * y + np.sin(angle) * x
    ripple = np.sin(2 * np.pi * (across * rng.uniform(7, 12) + 0.6 * warp))
    grains = _noise(rng, n, n, 90, 90) * 0.07
    tone = _hsv(rng.uniform(0.05, 0.14), rng.uniform(0.15, 0.5), rng.uniform(0.65, 0.95))
    canvas = tone * (1 + 0.13 * ripple + 0.08 * warp + grains)[..., None]
    for _ in range(int(rng.integers(3, 12))):
        px, py, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.006, 0.022)
        pebble = _step(radius - np.hypot(x - px, (y - py) * 1.4), 1.5 / n)
        canvas = _mix(canvas, tone * rng.uniform(0.35, 0.7), pebble)
    return np.asarray(canvas, np.float32)


_BACKGROUND_PAINTERS: dict[str, Callable[[Rng, int], Floats]] = {
    "meadow": _draw_meadow,
    "room": _draw_room,
    "grass": _draw_grass,
    "water": _draw_water,
    "bricks": _draw_bricks,
    "sand": _draw_sand,
}
