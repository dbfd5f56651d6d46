"""Sources of jobs against real grids."""
