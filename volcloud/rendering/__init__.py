"""Answers as people read them, by noun: tables and a few lines, with colours for states. Pure but for the clock."""
