"""Programs, one a question: see each module's docstring, or `launch/local.sh` for the list."""
