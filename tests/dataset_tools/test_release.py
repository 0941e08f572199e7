import json
import subprocess
import sys

import pytest

from references.dataset_tools import release
from references.dataset_tools.release import ReleaseError, Video, read_release

GOOD = {"video_path": "./1.mp4", "label": "elbow plank", "split": "train"}


def read(tmp_path, content, **options):
    path = tmp_path / "labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_release(path, **options)


def test_entries_are_read_in_order_and_once(tmp_path):
    other = {**GOOD, "video_path": "deep/er/2.mp4"}
    videos = read(tmp_path, [other, GOOD, GOOD])
    assert videos == [Video("2.mp4", "elbow plank", "train"), Video("1.mp4", "elbow plank", "train")]
    assert videos[0].folder == "train/elbow_plank"


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps([GOOD]), encoding="utf-8-sig")
    assert read_release(tmp_path / "labels.json") == [Video("1.mp4", "elbow plank", "train")]


@pytest.mark.parametrize("content", ["", "{", "nothing", '{"video_path": "1.mp4"}', '"text"', "3", "[" * 100000])
def test_what_is_no_list_is_refused(tmp_path, content):
    with pytest.raises(ReleaseError, match="labels.json"):
        read(tmp_path, content)


LINES = f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n"


WRAPPED = {"info": {}, "videos": [GOOD]}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ([], "is an empty list"),
        (3, "is 3, not a list"),
        (GOOD, "is a single entry"),
        ({"a.mp4": "squats"}, 'is an object with the keys "a.mp4"'),
        (WRAPPED, 'is an object whose "videos" holds a list of 1'),
        ({"train": [GOOD], "val": [GOOD]}, 'is an object that holds lists under "train", "val"'),
        (LINES, r"holds one JSON object a line \(JSON Lines\)"),
        ('[{"video_path": "1.mp4",}]', "is not JSON: "),
    ],
)
def test_what_was_found_instead_of_a_list_is_said(tmp_path, content, reason):
    with pytest.raises(ReleaseError, match=f"labels.json: {reason}"):
        read(tmp_path, content)


def test_what_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "labels.json").write_bytes(
        json.dumps([{**GOOD, "label": "plänk"}], ensure_ascii=False).encode("latin-1")
    )
    with pytest.raises(ReleaseError, match="labels.json: is not text in UTF-8"):
        read_release(tmp_path / "labels.json")


@pytest.mark.parametrize("content", [LINES, WRAPPED])
def test_the_command_that_is_proposed_makes_the_list(tmp_path, content):
    with pytest.raises(ReleaseError) as refusal:
        read(tmp_path, content)
    command = str(refusal.value)[str(refusal.value).index("python -c") :].replace("python", f"'{sys.executable}'", 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read_release(tmp_path / "list.json") == [Video("1.mp4", "elbow plank", "train")]


@pytest.mark.parametrize(
    "entry, reason",
    [
        ('{"video_path": "1.mp4", "label": "a", "label": "b", "split": "val"}', 'holds "label" more than once'),
        ('{"video_path": "1.mp4", "label": "a", "label": "a", "split": "val"}', 'holds "label" more than once'),
        ('{"video_path": "1.mp4", "labels": ["a"], "split": "val"}', r'has "labels" \(\["a"\]\), a list'),
        ('{"video_path": "1.mp4", "label": ["a", "b"], "split": "val"}', "write an entry for each of them"),
        ('{"video": "1.mp4", "label": "a"}', 'has no "video_path"; its keys are "video", "label"'),
        ('{"video_path": "1.mp4", "label": "a"}', 'has no "split".*--val-fraction'),
    ],
)
def test_what_an_entry_holds_instead_is_said(tmp_path, entry, reason):
    with pytest.raises(ReleaseError, match=f"entry 1 .*: {reason}"):
        read(tmp_path, f"[{json.dumps(GOOD)}, {entry}]")


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
@pytest.mark.parametrize("value", ["\x1b[31m.mp4", "a\x9bb", "a\x7fb", "a\u2028b", "\u200b", "\u00a0\ufeff"])
def test_a_value_with_control_or_only_invisible_characters_is_refused(tmp_path, key, value):
    with pytest.raises(ReleaseError, match="entry 0 .*(control character|invisible characters only|is empty)"):
        read(tmp_path, [{**GOOD, key: value}])


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
@pytest.mark.parametrize("value", [None, 3, "", " ", "..", ".", "x/..", "a\nb", "a\0b", "\ud800", "x" * 256, ".hidden"])
def test_a_value_that_names_no_file_or_folder_is_refused(tmp_path, key, value):
    with pytest.raises(ReleaseError, match="entry 1 "):
        read(tmp_path, [GOOD, {**GOOD, key: value}])


@pytest.mark.parametrize("key", ["label", "split"])
@pytest.mark.parametrize("value", ["../up", "/abs", "a/b", "a\\b"])
def test_a_folder_that_leaves_dest_is_refused(tmp_path, key, value):
    with pytest.raises(ReleaseError, match=f"entry 1 .*{key}.*path separator|begins with a dot"):
        read(tmp_path, [GOOD, {**GOOD, key: value}])


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
def test_an_entry_without_a_key_is_refused(tmp_path, key):
    with pytest.raises(ReleaseError, match=f'entry 1 .*has no "{key}"'):
        read(tmp_path, [GOOD, {name: value for name, value in GOOD.items() if name != key}])
    with pytest.raises(ReleaseError, match=f'entry 1 .*its "{key}" is null, not a string'):
        read(tmp_path, [GOOD, {**GOOD, key: None}])
    with pytest.raises(ReleaseError, match="entry 1 .*is not an object"):
        read(tmp_path, [GOOD, "1.mp4"])


def test_a_label_may_hold_any_letter(tmp_path):
    assert read(tmp_path, [{**GOOD, "label": "Ausfallschritt – über Kreuz (links)"}])[0].folder.startswith("train/Ausf")


def refusal(tmp_path, content, **options) -> str:
    """The message without the name of the file."""
    with pytest.raises(ReleaseError) as caught:
        read(tmp_path, content, **options)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/labels.json: ")
    return message.removeprefix(f"{tmp_path}/labels.json: ")


@pytest.mark.parametrize("count", [2, 3, 40])
def test_json_lines_are_recognized_however_many(tmp_path, count):
    content = "\n".join([json.dumps(GOOD)] * count)
    assert refusal(tmp_path, content).startswith("holds one JSON object a line (JSON Lines)")
    assert refusal(tmp_path, "\ufeff" + content).startswith("holds one JSON object a line (JSON Lines)")


@pytest.mark.parametrize(
    "content", ['{"a": 1}\nno JSON', "1\n2", '{"a": 1}\n2', '[{"a": 1}]\n[{"b": 1}]', '{"a": 1}\n[']
)
def test_what_is_no_json_is_not_called_json_lines(tmp_path, content):
    assert refusal(tmp_path, content).startswith("is not JSON: ")


def test_what_is_shown_of_a_file_or_an_entry_has_an_end(tmp_path):
    long = "x" * 300
    assert refusal(tmp_path, json.dumps(long)) == f'is "{"x" * 49}, not a list of entries'
    keys = {f"{n}{long}": 1 for n in range(6)}
    shown = ", ".join(f'"{n}{"x" * 49}"' for n in range(5))
    assert refusal(tmp_path, keys).startswith(f"is an object with the keys {shown}, ..., not a list of entries {{")
    assert refusal(tmp_path, {"a": 1, "b": 1}).startswith('is an object with the keys "a", "b", not a list')
    assert refusal(tmp_path, {}).startswith("is an object with the keys (none), not a list")
    five = refusal(tmp_path, {key: 1 for key in "abcde"})
    assert five.startswith('is an object with the keys "a", "b", "c", "d", "e", not a list')
    entry = {**GOOD, "label": [long]}
    message = refusal(tmp_path, [GOOD, entry])
    assert message.startswith(
        f'entry 1 ({json.dumps(entry)[:200]}): its "label" is ["{"x" * 48}, not a string; a video'
    )
    message = refusal(tmp_path, [{"video_path": "1.mp4", "labels": [long], "split": "val"}])
    assert f'): has "labels" (["{"x" * 78}), a list, where "label" is wanted' in message


@pytest.mark.parametrize(
    "entry, advice",
    [
        ({**GOOD, "label": ["a"]}, True),
        ({**GOOD, "label": 3}, False),
        ({**GOOD, "split": ["a"]}, False),
        ({**GOOD, "video_path": ["a"]}, False),
        ({"video_path": "1.mp4", "labels": ["a"], "split": "val"}, True),
        ({"video_path": "1.mp4", "labels": "a", "split": "val"}, False),
        ({"label": "a", "labels": ["a"], "split": "val"}, False),
    ],
)
def test_an_entry_for_each_label_is_advised_where_there_are_several(tmp_path, entry, advice):
    assert ("a video has one label here" in refusal(tmp_path, [entry])) is advice


@pytest.mark.parametrize("key", ["video_path", "label"])
def test_only_a_missing_split_is_what_val_fraction_makes(tmp_path, key):
    without = {name: value for name, value in GOOD.items() if name != key}
    assert "--val-fraction" not in refusal(tmp_path, [without])


def test_a_split_may_be_left_out_where_one_is_made(tmp_path):
    entry = {"video_path": "1.mp4", "label": "a"}
    assert read(tmp_path, [entry, {**GOOD, "split": "val"}], split_is_optional=True) == [
        Video("1.mp4", "a", "train"),
        Video("1.mp4", "elbow plank", "val"),
    ]
    assert "is null, not a string" in refusal(tmp_path, [{**entry, "split": None}], split_is_optional=True)


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
@pytest.mark.parametrize("letters", ["x" * 255, "x" + "\u00e4" * 127])
def test_a_name_has_at_most_255_bytes(tmp_path, key, letters):
    assert len(read(tmp_path, [{**GOOD, key: letters}])) == 1
    message = refusal(tmp_path, [{**GOOD, key: f"{letters}x"}])
    assert f'its {key} "{letters}x" is longer than 255 bytes' in message


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("\u3000", "is empty"),
        (".a", "begins with a dot"),
        ("a/b", "holds a path separator"),
        ("-a\\b", "holds a path separator"),
        ("a\\b", "holds a path separator"),
        ("a\tb", "holds a control character"),
        ("a\x85b", "holds a control character"),
        ("\u200b", "holds invisible characters only"),
        ("\u200b\u2060", "holds invisible characters only"),
        ("\u200bx", None),
        ("a\udcffb", "is not valid Unicode"),
        ("-a", None),
        ("_", None),
        ("a.", None),
        ("plank (left)", None),
        (" a", None),
        ("\u6771", None),
    ],
)
def test_what_is_wrong_with_a_name(text, problem):
    assert release._name_problem(text) == problem


def test_a_refused_name_is_shown_in_one_line(tmp_path):
    assert r'its label "a\nb\x1b" holds a control character' in refusal(tmp_path, [{**GOOD, "label": "a\nb\x1b"}])


def test_the_first_wrong_value_is_named(tmp_path):
    assert 'its label ".." begins' in refusal(tmp_path, [{**GOOD, "label": "..", "split": "a/b"}])
    assert 'its split "a/b" holds' in refusal(tmp_path, [{**GOOD, "split": "a/b"}])


@pytest.mark.parametrize(
    "path, name", [("1.mp4", "1.mp4"), ("/a/b/1.mp4", "1.mp4"), ("./1.mp4", "1.mp4"), ("a//1.mp4", "1.mp4")]
)
def test_the_name_is_the_end_of_the_path(tmp_path, path, name):
    assert read(tmp_path, [{**GOOD, "video_path": path}])[0].name == name


@pytest.mark.parametrize(
    "content, start",
    [
        ({"a b": [1, 2]}, 'is an object that holds lists under "a b"; make it one list'),
        ({"videos": [1, 2], "info": {}}, 'is an object whose "videos" holds a list of 2, not the list itself'),
        ({"a": [], "b": []}, 'is an object that holds lists under "a", "b"; make it one list'),
        ({"video_path": "1.mp4", "tags": []}, "is a single entry, not a list of entries; put [ before it and ] after"),
        (None, "is null, not a list of entries"),
        (True, "is true, not a list of entries"),
    ],
)
def test_what_the_json_holds_instead_is_said(tmp_path, content, start):
    assert refusal(tmp_path, json.dumps(content)).startswith(start)
