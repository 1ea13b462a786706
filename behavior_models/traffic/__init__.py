"""Rule-based drivers of many agents."""
