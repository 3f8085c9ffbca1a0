"""The methods, one file each: its settings, and a ``build`` that composes its policies."""
