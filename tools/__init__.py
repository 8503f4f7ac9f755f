"""The command line: the only place that wires the packages together."""
