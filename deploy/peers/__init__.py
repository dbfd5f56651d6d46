"""Servers of others that tests talk to: what makes their environments."""
