"""What every script runs on: processes, files, progress, signals and errors; knows nothing of videos."""
