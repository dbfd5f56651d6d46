"""Catalogues of grids: what says where a file is. Each is spoken to with credentials of its own. Knows no jobs."""
