"""A saved file and the target it is for, as values: signature, precision, graph, weights."""
