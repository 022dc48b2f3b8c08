"""What `make bench` measures: speed against peers, cost of the methods, what the drawings teach, what LIME hides."""
