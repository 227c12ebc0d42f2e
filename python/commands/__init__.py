"""The subcommands of `metagrad`, one file each.

A subcommand has `add(commands)`, which describes its arguments, and a function that runs it. What
it needs is imported in that function, so that `--help` is fast and works without the extras.
"""
