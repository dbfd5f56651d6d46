"""One module for each group of ``volcloud`` commands. They only read options, call the client and render answers."""
