"""Values. Frozen, keyword-only, validated once at the edge by ``wire``; no behaviour that needs a clock or a store."""
