"""What `make bench` measures: speed against peers, what each method costs, what can be learned from the drawings, what
LIME should hide."""
