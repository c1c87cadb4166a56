"""What lop claims about itself, measured: each module is one command and writes docs/results/."""
