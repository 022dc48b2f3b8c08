"""Speed of training against peers: `make bench`."""
