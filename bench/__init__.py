"""Benchmarks that prove speed and gradients; `python -m bench --help` lists them. Not installed with fastreg."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
