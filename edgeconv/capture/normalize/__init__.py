"""Either graph -> the forms that every later stage knows: exact, and nothing is fused."""
