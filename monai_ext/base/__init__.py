"""What everything else stands on: errors, flags, files, processes, colours, stains."""
