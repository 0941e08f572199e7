"""Headers written by hand, bit by bit, from the specifications of VP8, VP9 and AV1."""

import pytest

from references.dataset_tools.hidden_frames import gives_no_frame


def is_hidden(codec: str, packet: bytes) -> bool:
    return gives_no_frame(codec, memoryview(packet))


@pytest.mark.parametrize("first_byte, hidden", [(0b0001_0000, False), (0b0000_0000, True), (0b1110_1111, True)])
def test_vp8(first_byte, hidden):
    """RFC 6386, 9.1: frame type (1 bit, lowest), version (3), show_frame (1), size of the first part (3)."""
    assert is_hidden("vp8", bytes([first_byte, 1, 2])) is hidden


@pytest.mark.parametrize("size, hidden", [(1, True), (19, True), (20, False), (500, False)])
def test_mpeg4(size, hidden):
    assert is_hidden("mpeg4", bytes(size)) is hidden


SHOWN, HIDDEN = 0b10_00_0_0_1_0, 0b10_00_0_0_0_0  # frame_marker, profile, show_existing_frame, frame_type, show_frame


@pytest.mark.parametrize(
    "first_byte, hidden",
    [
        (SHOWN, False),
        (HIDDEN, True),
        (0b10_00_1_000, False),  # shows a frame that was decoded before
        (0b10_01_0_0_0_0, True),  # profile 2
        (0b10_11_0_0_0_0, True),  # profile 3 has a reserved bit
        (0b10_11_0_0_1_0, True),  # whose frame_type this is
        (0b10_11_0_0_0_1, False),
        (0b10_11_0_1_0_0, False),
        (0b00_00_0_0_0_0, False),  # no frame of VP9
        (0b11_00_0_0_0_0, False),
    ],
)
def test_vp9(first_byte, hidden):
    assert is_hidden("vp9", bytes([first_byte, 7, 7])) is hidden


def superframe(frames: list[bytes], size_bytes: int) -> bytes:
    """Annex B of the VP9 specification: the frames, and an index between two equal markers."""
    marker = bytes([0b110_00_000 | (size_bytes - 1) << 3 | len(frames) - 1])
    sizes = b"".join(len(frame).to_bytes(size_bytes, "little") for frame in frames)
    return b"".join(frames) + marker + sizes + marker


@pytest.mark.parametrize("size_bytes", [1, 2, 4])
@pytest.mark.parametrize("first, second, hidden", [(0, 0, True), (0, 1, False), (1, 0, False), (1, 1, False)])
def test_vp9_superframes(size_bytes, first, second, hidden):
    frames = [bytes([SHOWN if shown else HIDDEN]) + bytes(length) for shown, length in ((first, 200), (second, 3))]
    assert is_hidden("vp9", superframe(frames, size_bytes)) is hidden


def test_a_packet_that_only_ends_like_a_superframe():
    assert is_hidden("vp9", bytes([HIDDEN, 0, 0, 0b110_00_001]))
    assert not is_hidden("vp9", bytes([SHOWN, 0, 0, 0b110_00_001]))
    assert is_hidden("vp9", superframe([bytes([HIDDEN, 1])], 1)[:-1] + bytes([0b110_00_001]))


def obu(kind: int, payload: bytes, has_size: bool = True, has_extension: bool = False) -> bytes:
    header = bytes([kind << 3 | has_extension << 2 | has_size << 1]) + bytes(has_extension)
    size, length = b"", len(payload)
    while has_size:
        size += bytes([length & 0x7F | (length > 0x7F) << 7])
        length >>= 7
        if not length:
            break
    return header + size + payload


TEMPORAL_DELIMITER, SEQUENCE_HEADER, TILE_GROUP = obu(2, b""), obu(1, b"\x90" * 10), obu(4, b"\x90" * 5)
AV1_SHOWN, AV1_HIDDEN, AV1_EXISTING = b"\x10", b"\x00", b"\x80"  # show_existing_frame, frame_type (2), show_frame


@pytest.mark.parametrize(
    "obus, hidden",
    [
        ([obu(6, AV1_SHOWN)], False),
        ([obu(6, AV1_HIDDEN)], True),
        ([obu(3, AV1_HIDDEN), TILE_GROUP], True),
        ([obu(3, AV1_EXISTING)], False),
        ([obu(6, AV1_HIDDEN), obu(6, AV1_SHOWN)], False),
        ([TEMPORAL_DELIMITER, SEQUENCE_HEADER, obu(6, AV1_HIDDEN)], True),
        ([TEMPORAL_DELIMITER, SEQUENCE_HEADER], False),
        ([obu(6, AV1_HIDDEN + bytes(300)), obu(6, AV1_SHOWN)], False),
        ([obu(6, AV1_HIDDEN + bytes(300)), obu(6, AV1_HIDDEN)], True),
        ([obu(6, AV1_HIDDEN + bytes(20000)), obu(6, AV1_SHOWN)], False),
        ([obu(6, AV1_HIDDEN, has_extension=True)], True),
        ([obu(6, AV1_SHOWN, has_extension=True), obu(6, AV1_HIDDEN)], False),
        ([obu(6, AV1_HIDDEN), obu(6, AV1_HIDDEN + b"\x90", has_size=False)], True),
        ([obu(6, AV1_HIDDEN), obu(6, AV1_SHOWN, has_size=False)], False),
    ],
)
def test_av1(obus, hidden):
    assert is_hidden("av1", b"".join(obus)) is hidden


def test_an_av1_frame_that_is_cut_off_hides_nothing():
    assert not is_hidden("av1", obu(6, AV1_HIDDEN + bytes(50))[:20])


def test_other_codecs_hide_nothing():
    assert not is_hidden("h264", b"\0") and not is_hidden("hevc", b"\0")
