"""A torch module with a signature: loading, calling, tracing, shapes, layout, hooks."""
