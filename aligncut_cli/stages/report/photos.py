"""Writes the report's photos, and sheets with their thumbnails."""

from __future__ import annotations

import numpy as np
from PIL import Image

from aligncut_cli.params import ReportParams
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.report.files import PageFolder
from aligncut_cli.stages.report.layout import THUMBS_PER_SHEET
from aligncut_cli.viz import page

PHOTO_QUALITY, THUMB_QUALITY = 82, 78


def write_sheet(folder: PageFolder, photos: Photos, images: slice, sheet: int, params: ReportParams) -> None:
    """Write some photos, and one sheet with their thumbnails, each squeezed to a square.

    images : positions among all photos
    sheet  : the sheet's number
    """
    side = params.thumb_size
    thumbs = []
    for image in range(images.start, images.stop):
        large, small = photos.read_sizes(image, [photos.fitted_size(image, params.photo_size), (side, side)])
        folder.write(f"photos/{image}.jpg", page.jpeg_bytes(Image.fromarray(large), quality=PHOTO_QUALITY))
        thumbs.append(small)
    picture = page.make_sheet(np.stack(thumbs), page.sheet_columns(THUMBS_PER_SHEET))
    folder.write(f"thumbs/{sheet}.jpg", page.jpeg_bytes(picture, quality=THUMB_QUALITY))
