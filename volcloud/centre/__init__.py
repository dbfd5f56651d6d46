"""A whole system in one directory: what ``volcloud up``, ``down`` and ``status`` are made of."""
