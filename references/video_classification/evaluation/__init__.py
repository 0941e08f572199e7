"""How good a network is: accuracies, intervals, calibration, and the files they are computed from."""
