"""The only layer with state and effects: it records, calls the clouds, and records what came of it.

May import planning, the registry and everything below. Embed it with ``ControlPlane`` (docs/embedding.md).
"""
