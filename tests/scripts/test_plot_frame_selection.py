from xml.etree import ElementTree

import plot_frame_selection
from helpers.numbered_videos import write_numbered_video


def test_the_frames_of_a_selector_are_a_row_of_lines(tmp_path):
    """150 frames, 30 a second: every 7.5th frame (float32, rounded down), the first 16."""
    video = write_numbered_video(tmp_path / "video.mp4", 150)
    assert plot_frame_selection.main([str(video), "--output", str(tmp_path / "drawing.svg")]) == 0
    drawing = ElementTree.parse(tmp_path / "drawing.svg").getroot()
    lines = [element for element in drawing.iter("{http://www.w3.org/2000/svg}line") if element.get("stroke") != "#000"]
    assert len(lines) == 4 * 16
    official = [float(line.get("x1")) for line in lines[:16]]
    left, right = plot_frame_selection.LEFT, plot_frame_selection.RIGHT
    frames = [round((x - left) / (right - left) * 150) for x in official]
    assert frames == [0, 7, 15, 22, 30, 37, 45, 52, 60, 67, 75, 82, 90, 97, 105, 112]


def test_what_is_no_video_is_one_clear_message(tmp_path, capsys):
    (tmp_path / "video.mp4").write_bytes(b"nothing")
    assert plot_frame_selection.main([str(tmp_path / "video.mp4"), "--output", str(tmp_path / "drawing.svg")]) == 1
    assert "video.mp4" in capsys.readouterr().err and not (tmp_path / "drawing.svg").exists()
