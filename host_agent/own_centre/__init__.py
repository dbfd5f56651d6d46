"""A host that is its guests' centre, where there is no broker: it hands each guest its job by the local road, hears how
that does, gives its inputs and takes its outputs. A guest does the same as for any centre.
"""
