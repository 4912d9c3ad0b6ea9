"""The one training loop, its schedule, checkpoints, processes, loggers and cache."""
