"""Sources: grids from which jobs are fetched, and which are told what becomes of them. One process has one source."""
