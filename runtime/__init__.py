"""Programs and plans in, arrays out: the plan's data type and its simulator, and executables."""
