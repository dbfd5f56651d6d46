"""Our guest image: a small Debian with the guest agent, built from Debian packages and Python distributions.

``build`` is the way in. Nothing here is needed to run a VM; what comes out is an image for ``host_agent.images``.
"""
