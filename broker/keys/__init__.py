"""The key manager: makes principals on the broker, and trades a VM's one-time login for its own credential.

It alone holds the administrator's credential. ``registrar`` decides, ``upkeep`` ends what nobody wants, ``realm`` acts
on the broker, ``store`` remembers, ``sessions`` tells which connection is out of date, ``service`` listens.
"""
