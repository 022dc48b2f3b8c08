"""What `make bench` measures: speed against peers, what can be learned from the drawings, what LIME should hide."""
