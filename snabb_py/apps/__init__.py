"""General apps, each small; the basic ones are in `basic`."""
