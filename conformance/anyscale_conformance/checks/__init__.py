"""The checks, by theme. Every module here is loaded; each check is a plain function of a Context."""
