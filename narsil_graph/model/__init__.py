"""What is served: the specification, the weights file, and the imports from other formats. Needs no torch."""
