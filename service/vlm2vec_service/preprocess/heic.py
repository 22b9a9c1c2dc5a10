"""HEIC pictures, as phones take them: read where the extra ``heic`` is installed."""

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
"""What the first box of such a file says; the last two are for AVIF as well."""
MISSING = "a HEIC image, which this server reads with its extra heic (vlm2vec-serve[heic]) only"


def register() -> bool:
    """Teaches Pillow the format, which it calls HEIF, and says whether that was possible."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def is_heic(data: bytes) -> bool:
    """Says whether the file ``data`` begins as one of a HEIC picture does."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS
