"""Hyperparameters while training: search spaces, finite differences, population-based training, schedules."""
