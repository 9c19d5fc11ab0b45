"""The command line: parser, the contract of a run, pipelines, one module a command."""
