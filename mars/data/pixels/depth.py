"""Depth maps (one channel, 16 or 32 bits, millimetres) as RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mars.data.pixels.bands import bands

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

DEPTH_ENCODINGS = ("depth_spatialbot", "depth_minmax", "depth_colormap", "depth_clip")
CLIP_MM = 10_000
COLORMAP = "turbo"
MAX_DEPTH = 2**16 - 1


def depth_to_rgb(image: Image.Image, encoding: str) -> Image.Image:
    """A depth image (mode I;16, I or F) as RGB. Values must be finite and in 0 to 65535, else ValueError.

    depth_spatialbot: the packing of SpatialBot (Cai et al. 2024, arXiv 2406.13642), d in whole millimetres:
        R = 4 (d // 1024), G = 8 (d // 32) mod 256, B = 8 (d mod 32). d = 2500 -> (8, 112, 32).
    depth_minmax: grey. The image's smallest depth becomes 0, its largest 255; black if all depths are equal.
    depth_colormap: the same scale through the colour map "turbo".
    depth_clip: grey. 0 to 10 metres become 0 to 255, and all farther depths 255; comparable between images.
    """
    import numpy as np
    from PIL import Image

    low, high = MAX_DEPTH, 0.0
    for _, band in bands(image):
        depth = np.asarray(band)
        if not np.isfinite(depth).all() or depth.min() < 0 or depth.max() > MAX_DEPTH:
            raise ValueError(f"depth must be finite and within 0 to {MAX_DEPTH} millimetres")
        low, high = min(low, float(depth.min())), max(high, float(depth.max()))
    rgb = Image.new("RGB", image.size)
    for top, band in bands(image):
        encoded = _encode(np.asarray(band).astype(np.float64), encoding, low, high)
        rgb.paste(Image.fromarray(encoded), (0, top))
    return rgb


def _encode(depth: np.ndarray, encoding: str, low: float, high: float) -> np.ndarray:
    """float64 [H, W] -> uint8 [H, W, 3]. low, high: the smallest and largest depth of the whole image."""
    import numpy as np

    if encoding == "depth_spatialbot":
        return _spatialbot(depth)
    if encoding == "depth_clip":
        grey = _to_bytes(np.minimum(depth, CLIP_MM) / CLIP_MM)
    elif encoding in ("depth_minmax", "depth_colormap"):
        grey = _to_bytes((depth - low) / (high - low) if high > low else np.zeros_like(depth))
    else:
        raise ValueError(f"unknown depth encoding {encoding!r}")
    if encoding == "depth_colormap":
        return _colormap()[grey]
    return np.repeat(grey[..., None], 3, axis=2)


def _spatialbot(depth: np.ndarray) -> np.ndarray:
    import numpy as np

    whole = depth.astype(np.int64)
    return np.stack([whole // 1024 * 4, whole // 32 * 8 % 256, whole % 32 * 8], axis=-1).astype(np.uint8)


def _to_bytes(unit: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1], times 255 and rounded to whole numbers."""
    import numpy as np

    return np.rint(unit * 255).astype(np.uint8)


def _colormap() -> np.ndarray:
    """uint8 [256, 3]."""
    import matplotlib
    import numpy as np

    return matplotlib.colormaps[COLORMAP](np.arange(256), bytes=True)[:, :3]
