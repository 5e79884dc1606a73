"""What the benchmark scripts of front have in common. They need Python 3.11 and nothing that is installed with pip."""
