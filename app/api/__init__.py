"""HTTP: what comes in is parsed, one service is called, its answer goes out."""
