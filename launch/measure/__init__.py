"""Every kept checkpoint of a stage, measured as the pipeline measures its last one."""
