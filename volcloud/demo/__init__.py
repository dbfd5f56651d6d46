"""The demo: the whole system on one machine, from nothing to a physics result and back to nothing.

It uses what everybody uses: ``volcloud.centre`` to hold the system up, the public client to feed it, and the job of
``examples/pythia``. Needs a checkout, since examples are not installed.
"""
