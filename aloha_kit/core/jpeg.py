"""What a JPEG says about itself, without decoding it."""

from __future__ import annotations

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry the size; the three are tables
_SCAN = 0xDA  # from here on it is picture data


def is_jpeg(data: bytes) -> bool:
    """Whether `data` begins as a JPEG does."""
    return data[:3] == _START


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a whole JPEG.

    Raises:
        ValueError: not a JPEG, or one that was cut off.
    """
    if not is_jpeg(data):
        raise ValueError(f"no JPEG: {len(data)} bytes beginning {data[:8].hex(' ')}")
    if not data.rstrip(b"\0").endswith(_END):  # some cameras fill their buffer up with zeros
        raise ValueError(f"a JPEG that was cut off: {len(data)} bytes ending {data[-4:].hex(' ')}, expected ff d9")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        marker = data[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        # one FF more than needed may stand before a marker
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError(f"a JPEG without a frame header: {len(data)} bytes")
