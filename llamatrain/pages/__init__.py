"""What HTML pages are made of, whoever writes them: their style, tables, cards and drawings."""
