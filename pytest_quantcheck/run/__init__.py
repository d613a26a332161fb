"""One run: its targets, where their measurements come from, and the gate that judges them."""
