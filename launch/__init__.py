"""Starts the programs: the command line, the pipeline, the report, the chat. Imports no stage; they meet through files."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
