"""Re-encoding of videos for training, and comparison with their sources."""
