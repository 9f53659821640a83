"""Digital predistortion: models of power amplifiers in complex baseband, and predistorters in front of them."""
