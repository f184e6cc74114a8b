"""Thumbnail: the bytes of a photograph in, the bytes of a small one out.

Anything that is not sent as JSON reaches `main` as bytes, exactly as it was posted, and bytes
returned reach the caller unchanged. `requirements.txt` beside this file names the one library.
"""

import io

from PIL import Image, ImageOps

SIDE_MAX = 320
PIXELS_MAX = 60_000_000


def main(payload):
    if not isinstance(payload, bytes):
        raise TypeError("send the bytes of a picture, e.g. with content type image/jpeg")
    with Image.open(io.BytesIO(payload)) as photo:
        if photo.width * photo.height > PIXELS_MAX:
            raise ValueError(f"{photo.width} x {photo.height} pixels are more than we decode")
        size, kind = photo.size, photo.format
        # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size: several times faster for big photos.
        photo.draft(None, (2 * SIDE_MAX, 2 * SIDE_MAX))
        # Cameras store pixels as the sensor saw them and note the rotation in EXIF; apply it.
        small = ImageOps.exif_transpose(photo)
        small.thumbnail((SIDE_MAX, SIDE_MAX), Image.Resampling.LANCZOS)

    out = io.BytesIO()
    if small.has_transparency_data:
        small.convert("RGBA").save(out, "PNG", optimize=True)
    else:
        # exif=b"" drops what the camera wrote (place, time, model): good manners on the web.
        small.convert("RGB").save(out, "JPEG", quality=85, optimize=True, exif=b"")
    # `print` becomes a log record of this invocation: see `pratai logs thumbnail`.
    print(f"{kind} {size[0]}x{size[1]}, {len(payload)} bytes -> "
          f"{small.width}x{small.height}, {out.tell()} bytes")
    return out.getvalue()
