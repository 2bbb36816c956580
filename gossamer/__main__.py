"""`python -m gossamer`, and `torchrun -m gossamer` for several processes."""

from gossamer.cli.app import main

main()
