"""One line on each public set's terms of use, for its metadata. The publishers' own texts are binding."""

from __future__ import annotations

LICENCES = {
    "llvip": "LLVIP terms of use: non-commercial research and education only",
    "spatialqa": "terms of SpatialQA and of the image sets it is made of; see its publisher",
    "nuscenes": "nuScenes terms of use: non-commercial",
    "ocr_vqa": "OCR-VQA terms of use: the covers belong to their publishers",
}
NOT_STATED = "not stated"
