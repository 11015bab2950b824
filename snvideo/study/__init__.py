"""Many runs side by side: the grid, its table, its pictures and its report."""
