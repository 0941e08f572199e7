from helpers.evaluations import made_up_evaluation
from training.engine import EpochSummary
from training.loop import epoch_entry


def test_an_epochs_line_holds_what_it_came_to():
    results = made_up_evaluation(4, 6).results
    entry = epoch_entry(EpochSummary(1.5, 50.0, 20.0, 5.0, 3), results, 0.01)
    assert entry["val_video_acc1"] == results.video.top1 and entry["val_clip_acc5"] == results.clip.top5
    assert (entry["epoch"], entry["train_loss"], entry["lr"]) == (3, 1.5, 0.01)
    assert (entry["seconds"], entry["data_seconds"]) == (20.0, 5.0)
    assert (entry["val_seconds"], entry["val_data_seconds"]) == (12.5, 1.25)
