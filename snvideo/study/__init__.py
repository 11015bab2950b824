"""Studies: grids of runs, their comparability, and summaries over seeds."""
