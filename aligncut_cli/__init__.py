"""aligncut: visual concepts shared by deep networks, from a shell."""

__version__ = "0.1.0"
