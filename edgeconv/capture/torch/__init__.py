"""nn.Module -> graph: through the table of `_aten`, or by torch's own exporter where the table does not reach."""
