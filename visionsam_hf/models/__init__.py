"""SAM and its relatives: load, freeze, adapt, encode, decode, export."""
