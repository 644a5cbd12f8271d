"""The methods: functions that build a pipeline's graph, to be read like the paper."""
