"""`python -m fastreg` is the `fastreg` command."""

from fastreg.cli import main

main()
