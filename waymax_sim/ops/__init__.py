"""Array kernels that know no map: batched lookup, selection of the smallest, polylines."""
