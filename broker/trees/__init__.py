"""Trees over one transfer: a directory and all below it, as a source of bytes and as a place where they land."""

from broker.trees.landing import TreeLanding, into_tree
from broker.trees.manifest import Manifest
from broker.trees.place import TreePlace
from broker.trees.source import TreeSource, read_tree

__all__ = ["Manifest", "TreeLanding", "TreePlace", "TreeSource", "into_tree", "read_tree"]
