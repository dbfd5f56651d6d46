"""Inputs of jobs, fetched once for all guests of this host and shown to each that may have them."""
