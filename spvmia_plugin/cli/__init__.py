"""The `spvmia` command."""
