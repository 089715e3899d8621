"""The public sets' terms of use in a line, for their metadata; the publishers' own texts are what holds."""

from __future__ import annotations

LICENCES = {
    "llvip": "LLVIP terms of use: non-commercial research and education only",
    "spatialqa": "terms of SpatialQA and of the image sets it is made of; see its publisher",
    "nuscenes": "nuScenes terms of use: non-commercial",
    "ocr_vqa": "OCR-VQA terms of use: the covers belong to their publishers",
}
NOT_STATED = "not stated"
