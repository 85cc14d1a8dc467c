"""Face sets: data-set adapters, crops, decoding, batches, pseudo-fakes."""
