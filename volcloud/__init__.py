"""What people type, ``volcloud …``, and the Python client behind it (``volcloud.client``)."""
