"""From results to what people and tools read. ``result.json`` is the one source; everything else derives from it."""
