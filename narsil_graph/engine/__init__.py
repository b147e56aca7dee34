"""How a batch is run: FBGEMM, arenas, captured programs, and the doctor that proves them."""
