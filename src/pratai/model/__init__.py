"""The nouns of Pratai: immutable values and the moves they allow. No I/O, no clock."""
