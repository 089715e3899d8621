"""Find images on a node where the data are mounted at another path than on the driver's node."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mars.data.pixels.stored import BadImage, Place, stored_image

IMAGE_ROOT_VARIABLE = "MARS_IMAGE_ROOT"
"""Environment variable of a node: the folder that is data.image_root there."""


@dataclass(frozen=True)
class MountedRoot:
    """A `ReadImage` that replaces the folder `driver_root` at the start of a path by `root`.

    driver_root: data.image_root on the driver's node, without symbolic links. root: the same folder on this node.

        MountedRoot("/data/llvip", "/mnt/llvip")(Place("/data/llvip/visible/1.jpg"))  # "/mnt/llvip/visible/1.jpg"
    """

    driver_root: str
    root: str

    def __call__(self, place: Place) -> str | bytes:
        """As `stored_image`, at the path that the image has on this node. A path outside `driver_root` must be the
        same on all nodes.

        Raises BadImage for a path that leads out of `root` here.
        """
        if os.path.commonpath([place.path, self.driver_root]) != self.driver_root:
            return stored_image(place)
        root = os.path.realpath(self.root)
        here = os.path.realpath(os.path.join(root, os.path.relpath(place.path, self.driver_root)))
        if os.path.commonpath([here, root]) != root:
            raise BadImage("missing", f"{place.name}: it leads out of {IMAGE_ROOT_VARIABLE}={self.root}")
        return stored_image(place._replace(path=here))
