"""Clips of real videos: index, decoding, sampling, loading. Knows no model."""
