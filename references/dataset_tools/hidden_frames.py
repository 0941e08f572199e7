"""Packets that by design give no frame: each codec's own bits say so, and no decoder does."""

from collections.abc import Callable, Iterator

MPEG4_EMPTY_FRAME_BYTES = 19  # a "not coded" frame is no longer than this, as in FFmpeg's MAX_NVOP_SIZE
AV1_FRAME_HEADER, AV1_FRAME = 3, 6  # types of OBUs


def gives_no_frame(codec: str, packet: memoryview) -> bool:
    """Whether a packet of one byte or more of `codec` (FFmpeg's name) only holds frames that are not to be shown."""
    return codec in RULES and RULES[codec](packet)


def _is_hidden_vp8(packet: memoryview) -> bool:
    """The header's show_frame bit is off: the frame is made only to be referred to."""
    return not packet[0] & 0x10


def _is_not_coded_mpeg4(packet: memoryview) -> bool:
    return len(packet) <= MPEG4_EMPTY_FRAME_BYTES


def _is_hidden_vp9(packet: memoryview) -> bool:
    """Hidden frames usually share a packet, a "superframe", with a shown one; there are files that split them."""
    return not any(_is_shown_vp9(frame) for frame in _split_vp9_superframe(packet))


def _split_vp9_superframe(packet: memoryview) -> Iterator[memoryview]:
    """The frames of a packet, by the index at its end: a marker 110mmnnn, n+1 sizes of m+1 bytes, the marker again."""
    marker = packet[-1]
    size_bytes, count = (marker >> 3 & 3) + 1, (marker & 7) + 1
    index_bytes = 2 + size_bytes * count
    if marker & 0xE0 != 0xC0 or len(packet) < index_bytes or packet[-index_bytes] != marker:
        yield packet
        return
    start, sizes = 0, packet[len(packet) - index_bytes + 1 : -1]
    for number in range(count):
        size = int.from_bytes(sizes[number * size_bytes : (number + 1) * size_bytes], "little")
        if size:
            yield packet[start : start + size]
        start += size


def _is_shown_vp9(frame: memoryview) -> bool:
    """frame_marker(2) = 2, profile(2), in profile 3 a zero(1), show_existing_frame(1), frame_type(1), show_frame(1).

    What does not begin with the marker counts as shown, so that it is missed if it gives no frame.
    """
    is_profile_3 = frame[0] & 0x30 == 0x30
    return frame[0] >> 6 != 2 or bool(frame[0] & (0b101 if is_profile_3 else 0b1010))


def _is_hidden_av1(packet: memoryview) -> bool:
    """Hidden frames usually share a packet, a "temporal unit", with a shown one; there are files that split them."""
    are_shown = [
        _is_shown_av1(payload) for kind, payload in _split_obus(packet) if kind in (AV1_FRAME_HEADER, AV1_FRAME)
    ]
    return bool(are_shown) and not any(are_shown)


def _split_obus(packet: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The type and payload of each OBU: zero(1), type(4), has_extension(1), has_size(1), zero(1); a leb128 size."""
    position = 0
    while position < len(packet):
        header = packet[position]
        position += 2 if header & 4 else 1
        size, shift = 0, 0
        while header & 2 and position < len(packet):
            byte = packet[position]
            size, shift, position = size | (byte & 0x7F) << shift, shift + 7, position + 1
            if not byte & 0x80:
                break
        end = position + size if header & 2 else len(packet)
        if position < end <= len(packet):
            yield header >> 3 & 15, packet[position:end]
        position = end


def _is_shown_av1(payload: memoryview) -> bool:
    """show_existing_frame(1), frame_type(2), show_frame(1). (A still picture has none of them; it is one packet.)"""
    return bool(payload[0] & 0x90)


RULES: dict[str, Callable[[memoryview], bool]] = {
    "vp8": _is_hidden_vp8,
    "vp9": _is_hidden_vp9,
    "av1": _is_hidden_av1,
    "mpeg4": _is_not_coded_mpeg4,
}
