"""The old front door: the XML-RPC calls of the original VM controller, both generations, on a loopback port.

``http_server`` speaks HTTP, ``gate`` judges who may come in, ``marshal`` reads and writes XML, ``calls`` is the table
of what may be called, and ``door`` joins them. No name of a call is looked up anywhere but in that table. A client like
any other: nothing here knows more than ``AsyncClient`` does.
"""
