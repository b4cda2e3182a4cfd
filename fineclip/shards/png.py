"""Chunks of PNG files that are not pixels: texts and color profiles.

Pillow unpacks them while it opens a file, and refuses files with large ones. The package uses neither, so they are removed before.
"""

MAGIC = b"\x89PNG\r\n\x1a\n"
UNUSED = frozenset({b"iCCP", b"tEXt", b"zTXt", b"iTXt"})
AROUND_DATA = 12  # length and type before the data of a chunk, checksum after it


def without_texts(content: bytes) -> bytes:
    r"""Return a PNG without its text chunks and color profile; other content unchanged.

    Args:
        content: Any bytes. What follows a damaged chunk is kept.

    Returns:
        PNG with the same pixels.

    Examples:
        >>> chunk = b"\0\0\0\2tEXtabCRC_"
        >>> without_texts(MAGIC + chunk + b"rest") == MAGIC + b"rest"
        True
    """
    if not content.startswith(MAGIC):
        return content
    kept, since, start = list[bytes](), 0, len(MAGIC)
    while start + AROUND_DATA <= len(content):
        end = start + AROUND_DATA + int.from_bytes(content[start : start + 4])
        if end > len(content):
            break
        if content[start + 4 : start + 8] in UNUSED:
            kept.append(content[since:start])
            since = end
        start = end
    return content if since == 0 else b"".join([*kept, content[since:]])
