"""Re-encoding videos for training, and what that costs and gains."""
