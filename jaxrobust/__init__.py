"""Data-efficient adversarial robustness, compiled: see README.md for the tour."""

__version__ = "0.1.0"
