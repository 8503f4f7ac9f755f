"""A folder on this machine that holds what was read of data sets elsewhere; shared by all processes of the machine."""
