"""DIRAC, by the interface of DiracX: jobs of its grids, run on volunteers' machines."""
