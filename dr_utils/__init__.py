"""Measure how diffusely a network's representation is spread, and how much of it a task needs."""

__version__ = "0.1.0"
