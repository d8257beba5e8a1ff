"""The tests. A package only so that its folders may share `postgres_servers`."""
