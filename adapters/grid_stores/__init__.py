"""Stores of grids: where outputs are delivered to, each spoken to with credentials of its own. Knows files, no jobs."""
