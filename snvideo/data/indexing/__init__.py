"""Building of clip indexes: sources, probes of the files, summaries."""
