"""What a volunteer's BOINC client starts: a job file carried out in a slot, and the client spoken with meanwhile.

What decides is pure and imports nothing that Windows lacks, which a test checks. Sources are BOINC 7.20.5 and its
master of August 2026; modules name the files.
"""
