"""The process: Kafka, Faust, settings, command line and metrics around the step."""
