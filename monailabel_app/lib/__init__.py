"""The tasks of the app: one module each."""
