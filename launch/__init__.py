"""Starts the programs: the command line, the pipeline, the report, the chat. Imports no stage; they meet through files."""
