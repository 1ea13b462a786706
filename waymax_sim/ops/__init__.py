"""Array operations that know no scenario: batching, selection, banks of maps, polylines."""
