"""Video action recognition on Kinetics with Switchable Normalization."""

__version__ = "0.1.0"
