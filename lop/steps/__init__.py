"""The pipeline's steps as functions from files to files; flows and the command line call them."""
