"""The lowest layer: errors, flags, files, processes, colours, stains."""
