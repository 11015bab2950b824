"""Re-encoding of videos for training, and its cost and gain."""
