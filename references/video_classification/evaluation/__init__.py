"""How good a network is: accuracies, their intervals, calibration, and files of predictions and logits."""
