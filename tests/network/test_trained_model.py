import pytest
import torch

from helpers.small_models import CLASSES, legacy_checkpoint, small_checkpoint
from network.checkpoint import CheckpointError
from network.trained_model import load_trained_model, read_classes


def test_a_legacy_checkpoint_goes_by_its_own_flags_and_its_solutions_defaults(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    model = load_trained_model(legacy_checkpoint(tmp_path / "old.pth"), names)
    found = model.preprocessing
    assert (found.clip_len, found.frame_rate, found.frame_selection) == (8, 4, "official")
    assert (found.resize_size, found.crop_size) == ((32, 42), (28, 28)) and found.candidate_rate is None
    assert model.classes == tuple(CLASSES) and model.temperature == 1 and not model.network.training


def test_names_of_its_own_and_others_contradict_each_other(tmp_path):
    checkpoint, names = small_checkpoint(tmp_path / "model.pth"), tmp_path / "names.txt"
    names.write_text("\n".join(reversed(CLASSES)))
    with pytest.raises(CheckpointError, match="leave the file out"):
        load_trained_model(checkpoint, names)
    names.write_text("\n".join(CLASSES))
    assert load_trained_model(checkpoint, names).classes == tuple(CLASSES)


def test_names_without_preprocessing_are_not_enough(tmp_path):
    content = torch.load(small_checkpoint(tmp_path / "model.pth"), weights_only=True)
    del content["preprocessing"]
    torch.save(content, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="bare.pth has class names but no `preprocessing`"):
        load_trained_model(tmp_path / "bare.pth")


@pytest.mark.parametrize("text", ["", "a\nb\na\n", b"\xff\xfe"])
def test_a_file_that_does_not_name_classes_is_refused(tmp_path, text):
    (tmp_path / "names.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match="names.txt"):
        read_classes(tmp_path / "names.txt")
