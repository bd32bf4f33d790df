"""Networks, their blocks and their weights."""
