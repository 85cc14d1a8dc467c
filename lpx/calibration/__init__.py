"""From a face set to ranges: one pass, bounded memory."""
